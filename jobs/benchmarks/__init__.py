"""Benchmarks, one per file, each against a named rival. `jobs/bench.py` prints those of codec and mel."""
