"""Benchmarks of speed, memory, scores and resuming after kills, one command each."""
