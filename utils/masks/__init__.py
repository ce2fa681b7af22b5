"""Predicted masks: files, averaging, instances, post-processing, the gate, ground truth."""
