"""Shared by the codec verbs: training checkpoints and quality metrics."""
