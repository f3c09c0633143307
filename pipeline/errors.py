"""Pipeline errors that a user can fix: one line each, without a traceback."""


class PipelineError(Exception):
    """An error that a user can fix; the message says what is wrong, in which file, and what to do."""


class ShardError(PipelineError):
    """A whole shard cannot be read, so no single sample is at fault."""


class AudioError(PipelineError):
    """One recording cannot be used; this becomes a row in `failures/`, with the error's message.

    `stage` is one of `scan`, `decode`, `resample`, `encode`; `kind` is the error's name if no exception caused it.
    """

    def __init__(self, stage: str, message: str, kind: str = ""):
        super().__init__(message)
        self.stage, self.kind = stage, kind
