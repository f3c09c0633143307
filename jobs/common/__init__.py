"""What all verbs share: option files, errors, progress, locks, signals, the event log."""
