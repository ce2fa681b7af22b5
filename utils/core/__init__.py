"""Errors, files, settings and the way scripts start and end; nothing about images."""
