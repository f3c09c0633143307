"""Errors of the jobs that are a user's to mend."""

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.model.errors import ModelError
from whisper_gpt.pipeline.errors import PipelineError


class JobError(Exception):
    """A command cannot do what was asked of it: the message says what, which file, and what to do."""


class Diverged(JobError):
    """A training run whose numbers went out of bounds and stayed there: the same run would end the same way again."""


class UsageError(JobError):
    """An option or its value makes no sense, whatever the data: exit code 2."""


# What every part of the project raises for a user to mend.
USERS_ERRORS = (JobError, PipelineError, ManifestError, ModelError)


def require(condition: bool, message: str) -> None:
    """Raise `UsageError` with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)
