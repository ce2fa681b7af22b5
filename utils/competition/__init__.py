"""Submissions: formats' rows, checks, Kaggle."""
