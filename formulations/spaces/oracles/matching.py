"""Maximum-weight matchings of two sides, of limited size: assignment problems."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray


def maximum_matchings(
    weights: FloatArray,
    eligible: BoolArray,
    least: int,
    most: int,
    held: BoolArray | None = None,
) -> tuple[BoolArray, BoolArray]:
    """Find a matching of largest weight for each weight matrix, exactly.

    Without a binding size, an assignment of the positive weights; otherwise both sides get dummies:
    n - least to the right and m - least to the left, of which most - least may pair with each
    other, so that between least and most pairs remain.

    Parameters
    ----------
    weights
        Shape (batch, n, m).
    eligible
        Which pairs may be matched, shape (n, m) or (batch, n, m).
    least, most
        Bounds on the number of pairs, 0 <= least <= most <= min(n, m).
    held
        Pairs that must be matched, shape (batch, n, m).

    Returns
    -------
    tuple of numpy.ndarray
        The pairs, shape (batch, n, m), and whether there is such a matching, shape (batch,).
    """
    batch, n, m = weights.shape
    allowed = np.broadcast_to(eligible, weights.shape)
    found = np.ones(batch, dtype=bool)
    if held is not None:
        rows, columns = np.asarray(held.any(axis=2)), np.asarray(held.any(axis=1))
        found &= (held.sum(axis=2) <= 1).all(axis=1) & (held.sum(axis=1) <= 1).all(axis=1)
        found &= ~(held & ~allowed).any(axis=(1, 2)) & (held.sum(axis=(1, 2)) <= most)
        allowed = allowed & ~(rows[:, :, None] | columns[:, None, :]) | held
    pairs = np.zeros(weights.shape, dtype=bool)
    if least < min(n, m):
        gains = np.where(allowed, np.maximum(weights, 0.0), 0.0)
        for b in np.flatnonzero(found):
            i, j = linear_sum_assignment(gains[b], maximize=True)
            pairs[b, i, j] = gains[b, i, j] > 0
        if held is not None:
            pairs |= held
        sizes = pairs.sum(axis=(1, 2))
        open_rows = np.flatnonzero(found & ((sizes < least) | (sizes > most)))
    else:
        open_rows = np.flatnonzero(found)
    for b in open_rows:
        sized = _of_limited_size(
            np.where(allowed[b], weights[b], -np.inf),
            least,
            most,
            None if held is None else held[b],
        )
        found[b] = sized is not None
        pairs[b] = False
        if sized is not None:
            pairs[b, sized[0], sized[1]] = True
    pairs[~found] = False
    return pairs, found


def _of_limited_size(
    weights: FloatArray, least: int, most: int, held: BoolArray | None
) -> tuple[IntArray, IntArray] | None:
    """Return the pairs of a best matching of least to most pairs; ``None`` if there is none."""
    n, m = weights.shape
    if least < min(n, m):
        full = np.full((n + m - least,) * 2, -np.inf)
        full[:n, :m] = weights
        free_left = np.ones(n, dtype=bool) if held is None else ~held.any(axis=1)
        free_right = np.ones(m, dtype=bool) if held is None else ~held.any(axis=0)
        full[:n, m:][free_left] = 0.0
        full[n:, :m][:, free_right] = 0.0
        full[n : n + most - least, m:] = 0.0
        weights = full
    try:
        i, j = linear_sum_assignment(weights, maximize=True)
    except ValueError:  # infeasible
        return None
    real = (i < n) & (j < m)
    return i[real], j[real]


def matching_number(eligible: BoolArray) -> int:
    """Return the largest number of pairs of a matching, eligible pairs of shape (n, m)."""
    return int((maximum_bipartite_matching(csr_array(eligible), perm_type="column") >= 0).sum())


def pairs_in_matchings(eligible: BoolArray, least: int) -> BoolArray:
    """Return which pairs are in some matching of at least so many pairs, shape (n, m).

    Every pair is in a matching of one pair less than the largest, and in a largest one if it lies
    on a cycle of the residual graph of that flow.
    """
    n, m = eligible.shape
    partner = maximum_bipartite_matching(csr_array(eligible), perm_type="column")
    left = np.flatnonzero(partner >= 0)
    largest = len(left)
    if least > largest:
        return np.zeros_like(eligible)
    if least < largest:
        return eligible.copy()
    residual = np.zeros((n + m + 2,) * 2, dtype=bool)  # the sides, the source, the sink
    source, sink = n + m, n + m + 1
    matched = np.zeros_like(eligible)
    matched[left, partner[left]] = True
    residual[:n, n : n + m] = eligible & ~matched
    residual[n : n + m, :n] = matched.T
    residual[:n, source] = matched.any(axis=1)
    residual[source, :n] = ~matched.any(axis=1)
    residual[sink, n : n + m] = matched.any(axis=0)
    residual[n : n + m, sink] = ~matched.any(axis=0)
    _, component = connected_components(csr_array(residual), connection="strong")
    together = component[:n, None] == component[n : n + m]
    return np.asarray(matched | (eligible & together))
