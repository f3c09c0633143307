"""The paper's table: its rows, the trials that train and score them, and what is made of their results."""
