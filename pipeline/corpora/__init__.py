"""One file per corpus, all with the same function: `scan(root)` returns the recordings, and warnings about them."""
