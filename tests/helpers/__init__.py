"""Helpers that several tests share: handmade data, commands run as by a user, and mock servers."""
