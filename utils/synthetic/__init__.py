"""Synthetic data sets: a seismic salt survey, and satellite images of ships at sea."""
