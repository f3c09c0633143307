"""Errors of the manifests that are a user's to mend."""


class ManifestError(Exception):
    """A dataset's records are missing, damaged or at odds, or where it lies cannot be read: which file, what to do."""
