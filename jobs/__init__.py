"""What people run: one thin file a verb. Ray is used here and nowhere else."""
