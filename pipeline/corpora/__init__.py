"""One corpus a file, each with the same function: `scan(root)` → its recordings, and what is odd about it."""
