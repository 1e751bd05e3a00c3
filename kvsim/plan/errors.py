"""What makes a plan impossible and can be mended by whoever asked for it."""

from kvsim.errors import KvsimError


class PlanError(KvsimError):
    """No plan can be made: too few GPUs, no limits to meet, or limits that nothing meets."""
