"""Robust nonlinear least squares of relative errors over a few positive parameters, each with what is known of it.

Residuals are logarithms of predicted over measured, so 10 % too long and 10 % too short count the same whatever the
size; Huber's weights keep disturbed points from deciding. What is known of a parameter beforehand enters as one more
residual (a Gaussian prior of its logarithm), so that what the points cannot tell stays where it was. Levenberg and
Marquardt's damped Gauss-Newton steps (J. SIAM 11(2), 1963). It must not know what is fitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvsim.profile.least_squares import Floats

_HUBER = 1.345
_ROUNDS = 60
_STEP = 0.02
"""Relative step of the numerical derivatives: parameters that are whole nanoseconds must notice it."""

_SETTLED = 1e-5


@dataclass(frozen=True, slots=True)
class Parameter:
    """``prior`` is what is known beforehand, ``spread`` how well: the standard deviation of its logarithm. It stays
    within ``low`` and ``high``."""

    name: str
    prior: float
    spread: float
    low: float = 0.0
    high: float = float("inf")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Values by parameter; ``errors`` are predicted over measured less 1; ``told`` is how much the points narrowed each
    parameter: near 0 it is the prior, near 1 the points decided."""

    values: Mapping[str, float]
    errors: Floats
    told: Mapping[str, float]


def fit(
    parameters: Sequence[Parameter],
    predict: Callable[[Mapping[str, float]], Floats],
    measured: Floats,
    weights: Floats,
    noise: float,
) -> Fitted:
    """The parameters under which ``predict`` is nearest to ``measured`` (both > 0). ``noise`` is the relative error
    that a single point is expected to have, against which priors are weighed; points count by ``weights``."""
    names = [parameter.name for parameter in parameters]
    priors = np.log([parameter.prior for parameter in parameters])
    spreads = np.array([parameter.spread for parameter in parameters])
    low = np.log([max(parameter.low, 1e-30) for parameter in parameters])
    high = np.log([parameter.high for parameter in parameters])
    root = np.sqrt(weights)

    def residuals(logs: Floats) -> Floats:
        found = predict(dict(zip(names, np.exp(logs).tolist(), strict=True)))
        return np.asarray(np.log(found / measured) / noise, dtype=np.float64)

    logs = priors.copy()
    current = residuals(logs)
    damping = 1e-2
    jacobian = _jacobian(residuals, logs, current)
    for _ in range(_ROUNDS):
        huber = root * np.sqrt(np.minimum(1.0, _HUBER / np.maximum(np.abs(current), 1e-12)))
        matrix = np.vstack([jacobian * huber[:, None], np.diag(1.0 / spreads)])
        target = -np.concatenate([current * huber, (logs - priors) / spreads])
        normal, gradient = matrix.T @ matrix, matrix.T @ target
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        moved = np.clip(logs + np.clip(step, -1.0, 1.0), low, high)
        found = residuals(moved)
        if _cost(found, root, moved, priors, spreads) <= _cost(current, root, logs, priors, spreads):
            settled = bool(np.max(np.abs(moved - logs)) < _SETTLED)
            logs, current, damping = moved, found, damping / 5
            if settled:
                break
            jacobian = _jacobian(residuals, logs, current)
        else:
            damping *= 7
            if damping > 1e8:
                break
    matrix = np.vstack([jacobian * root[:, None], np.diag(1.0 / spreads)])
    known = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
    told = 1.0 - np.minimum(known / spreads, 1.0)
    return Fitted(
        values=dict(zip(names, np.exp(logs).tolist(), strict=True)),
        errors=np.asarray(np.exp(current * noise) - 1.0, dtype=np.float64),
        told=dict(zip(names, told.tolist(), strict=True)),
    )


def _jacobian(residuals: Callable[[Floats], Floats], logs: Floats, current: Floats) -> Floats:
    columns = []
    for place in range(len(logs)):
        shifted = logs.copy()
        shifted[place] += _STEP
        columns.append((residuals(shifted) - current) / _STEP)
    return np.column_stack(columns)


def _cost(residuals: Floats, root: Floats, logs: Floats, priors: Floats, spreads: Floats) -> float:
    """Huber's loss, weighted, with the priors."""
    size = np.abs(residuals)
    loss = np.where(size <= _HUBER, size**2 / 2, _HUBER * (size - _HUBER / 2))
    return float(np.sum(root**2 * loss) + np.sum(((logs - priors) / spreads) ** 2) / 2)
