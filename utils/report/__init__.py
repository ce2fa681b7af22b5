"""The page of experiments: what is read of their folders, what is drawn of it."""
