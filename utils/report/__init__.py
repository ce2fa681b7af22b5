"""The report page of experiments and the model card of a run."""
