"""Metrics, exact searches, cross-fitting and what they store."""
