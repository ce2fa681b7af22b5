"""From image folders to packed arrays and folds."""
