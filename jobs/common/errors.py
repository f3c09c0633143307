"""Errors of the jobs that a user can fix."""

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.model.errors import ModelError
from whisper_gpt.pipeline.errors import PipelineError


class JobError(Exception):
    """A command failed; the message says what is wrong, in which file, and what to do."""


class Diverged(JobError):
    """A training run diverged; the same run would diverge again."""


class UsageError(JobError):
    """An option or its value is invalid for any data: exit code 2."""


# The errors of all parts of the project that a user can fix.
USERS_ERRORS = (JobError, PipelineError, ManifestError, ModelError)


def require(condition: bool, message: str) -> None:
    """Raise `UsageError` with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)
