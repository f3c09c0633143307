"""Reproduction of the paper's table: its rows, the trials that train and score them, statistics and plots."""
