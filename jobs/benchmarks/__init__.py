"""One benchmark a file: pure measurements, in turn with a named rival; `jobs/bench.py` prints them."""
