"""Metrics, exact searches, cross-fitting and stored results."""
