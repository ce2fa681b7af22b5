"""The page of experiments and the model card."""
