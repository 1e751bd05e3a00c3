"""Robust least squares of relative errors with coefficients that are not negative.

A duration that is 10 % off counts the same whether it is long or short, and one that was disturbed (another process, a
clock that changed) counts little: Huber's weights (Ann. Math. Statist. 35(1), 1964), found by repeated weighting. It
must not know what is fitted.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ROUNDS = 30
_HUBER = 1.345  # 95 % as efficient as plain least squares where errors are normal
_MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, of normal errors
_ERROR_MIN = 1e-9  # relative; below it all errors count the same


def robust_fit(matrix: Floats, values: Floats) -> Floats:
    """Coefficients >= 0 for the columns of ``matrix``: ``matrix @ coefficients`` is near ``values`` (all > 0)."""
    relative = matrix / values[:, None]
    weights = np.ones(len(values))
    coefficients = _nonnegative(relative, np.ones(len(values)))
    for _ in range(_ROUNDS):
        errors = np.abs(relative @ coefficients - 1.0)
        # The median is 0 where most points fit exactly, as one table entry for each does: the mean then stands in.
        scale = max(float(_MAD_TO_SIGMA * np.median(errors)), float(errors.mean()) / 4, _ERROR_MIN)
        updated = np.minimum(1.0, _HUBER * scale / np.maximum(errors, _ERROR_MIN))
        root = np.sqrt(updated)
        found = _nonnegative(relative * root[:, None], root)
        settled = np.allclose(found, coefficients, rtol=1e-10, atol=0.0) and np.allclose(updated, weights)
        coefficients, weights = found, updated
        if settled:
            break
    return coefficients


def independent(columns: Sequence[Floats], fixed: Floats) -> list[bool]:
    """For each further column, in order, whether it tells something that ``fixed`` and the accepted ones do not."""
    accepted = []
    matrix = _scaled(fixed)
    rank = int(np.linalg.matrix_rank(matrix)) if matrix.size else 0
    for column in columns:
        wider = np.column_stack([matrix, _scaled(column[:, None])])
        wider_rank = int(np.linalg.matrix_rank(wider, tol=1e-6 * float(np.linalg.norm(wider))))
        accepted.append(bool(column.any()) and wider_rank > rank)
        if accepted[-1]:
            matrix, rank = wider, wider_rank
    return accepted


def _nonnegative(matrix: Floats, values: Floats) -> Floats:
    """Least squares; columns that would come out negative are left out, the worst one first, and stay 0."""
    kept = list(range(matrix.shape[1]))
    coefficients = np.zeros(matrix.shape[1])
    while kept:
        norms = np.linalg.norm(matrix[:, kept], axis=0)
        norms[norms == 0] = 1.0
        scaled = np.linalg.lstsq(matrix[:, kept] / norms, values, rcond=None)[0]
        worst = int(np.argmin(scaled))
        if scaled[worst] >= -1e-12:
            coefficients[kept] = np.maximum(scaled, 0.0) / norms
            break
        del kept[worst]
    return coefficients


def _scaled(matrix: Floats) -> Floats:
    norms = np.linalg.norm(matrix, axis=0)
    return matrix / np.where(norms == 0, 1.0, norms)
