"""Errors of the models that are a user's to mend."""


class ModelError(Exception):
    """A checkpoint or a configuration that does not fit: the message says which, and what differs."""
