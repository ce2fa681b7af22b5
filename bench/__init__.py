"""What is fast, what scores, what survives: measured, one command each."""
