"""A blind listening test of pairs: the page, and the statistics of its answers."""
