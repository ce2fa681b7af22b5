"""Synthetic data sets: the salt survey, the sea with ships."""
