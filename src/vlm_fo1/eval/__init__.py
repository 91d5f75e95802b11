"""Benchmarks: what is asked, what is answered, and what the answers are worth."""
