"""The paper's table, from results to numbers, sentences and pictures; nothing here trains or reads a file."""
