"""Errors of the jobs that are a user's to mend."""


class JobError(Exception):
    """A command cannot do what was asked of it: the message says what, which file, and what to do."""


class UsageError(JobError):
    """An option or its value makes no sense, whatever the data: exit code 2."""


def require(condition: bool, message: str) -> None:
    """Raise `UsageError` with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)
