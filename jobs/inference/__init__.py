"""What is done with a trained model: reading its run, scoring tokens, continuing audio."""
