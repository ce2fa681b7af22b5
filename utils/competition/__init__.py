"""Submissions: decisions, writing, checking, and Kaggle's client."""
