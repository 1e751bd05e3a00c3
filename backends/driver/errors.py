"""What the driver tells its user."""

from kvsim.errors import KvsimError


class SubmissionError(KvsimError):
    """A request that cannot be asked for: the message says what is wrong with it."""


class ServiceError(KvsimError):
    """The workers cannot serve, or no longer: the message says which one failed and why."""
