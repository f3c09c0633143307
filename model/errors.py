"""Model errors that a user can fix."""


class ModelError(Exception):
    """A checkpoint or configuration does not fit; the message names it and what differs."""
