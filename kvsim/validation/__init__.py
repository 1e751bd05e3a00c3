"""Simulation held against reality: the same requests served by real workers and by simulated ones.

``validate_scenario`` does it with whatever serves requests for real and writes a validation folder; ``load_validation``
opens one. ``kvsim.real`` joins it to the workers of ``backends``.
"""

from kvsim.validation.conduct import RealRun, ServeReal, validate_scenario
from kvsim.validation.folder import ValidationFolder, load_validation

__all__ = ["RealRun", "ServeReal", "ValidationFolder", "load_validation", "validate_scenario"]
