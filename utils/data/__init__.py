"""Image folders, packed arrays and folds."""
