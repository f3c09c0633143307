"""What every verb uses: options from files, errors, progress, locks, signals, the event log."""
