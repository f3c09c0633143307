"""Studies: a question, the datasets and models that answer it, and the answer with its intervals."""
