"""Errors of the manifests that are a user's to mend."""


class ManifestError(Exception):
    """A dataset's own records are missing, damaged or at odds: the message says which file, and what to do."""
