"""Manifest errors that a user can fix."""


class ManifestError(Exception):
    """A dataset's records are missing, damaged or contradictory, or its storage cannot be read.

    The message names the file and says what to do.
    """
