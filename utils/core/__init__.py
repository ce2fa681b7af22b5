"""Basics that know nothing about images: errors, files, settings, and how scripts start and end."""
