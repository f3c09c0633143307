"""Errors of the pipeline that are a user's to mend: one line each, no traceback needed."""


class PipelineError(Exception):
    """Something a user can mend: the message says what, which file, and what to do."""


class ShardError(PipelineError):
    """A shard as a whole that cannot be read: no fault of a sample in it."""


class AudioError(PipelineError):
    """One recording that cannot be used; becomes a row in `failures/`.

    `stage` is one of `scan`, `decode`, `resample`, `encode`; `kind` the error's name where no exception stands for it.
    """

    def __init__(self, stage: str, message: str, kind: str = ""):
        super().__init__(message)
        self.stage, self.kind = stage, kind
