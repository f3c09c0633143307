"""Errors of the jobs that are a user's to mend."""


class JobError(Exception):
    """A command cannot do what was asked of it: the message says what, which file, and what to do."""
