"""Predicted masks: files, averaging, instances, post-processing, the empty-image gate and ground truth."""
