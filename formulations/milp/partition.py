r"""The partition formulation of an unstable ReLU neuron.

Tsay, Kronqvist, Thebelt and Misener, "Partition-based formulations for mixed-integer optimization
of trained ReLU neural networks" (NeurIPS 2021, arXiv 2102.04373), equations 13 to 17: the terms of
:math:`Px` in N groups :math:`P_k x`, each with a copy :math:`v_k` that is zero unless
:math:`q = 1`, and with its own bounds :math:`l_k \le P_k x \le u_k`:

.. math:: y = \sum_k v_k + p q, \qquad \sum_k (P_k x - v_k) + p (1 - q) \le 0,

.. math:: l_k q \le v_k \le u_k q, \qquad l_k (1 - q) \le P_k x - v_k \le u_k (1 - q).

One group is big-M with the bounds of the box; as many groups as inputs is the convex hull.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.writer import RowWriter


def write_partition(
    writer: RowWriter, inner: FloatArray, constant: float, y: int, q: int, partitions: int
) -> None:
    r"""Write one neuron ``y = max(0, inner @ x + constant)`` in groups of its inputs.

    .. math:: y = \sum_k v_k + p q, \qquad \sum_k (P_k x - v_k) + p (1 - q) \le 0, \qquad
              l_k q \le v_k \le u_k q, \qquad l_k (1 - q) \le P_k x - v_k \le u_k (1 - q)

    Parameters
    ----------
    writer
        Collects the rows; the copies of the groups become columns.
    inner, constant
        The neuron over the slots.
    y, q
        Slots of the neuron and of its binary.
    partitions
        Number of groups N, of inputs of similar coefficients.

    Examples
    --------
    ``y = max(0, a + b - 1)`` in two groups, ``a`` and ``b``, with the slots (a, b, y, q, v1, v2).
    The first row is ``y + q - v1 - v2 = 0``, the second ``a + b - v1 - v2 + q <= 1``:

    >>> import numpy as np
    >>> from milp_rl.formulations.milp.partition import write_partition
    >>> from milp_rl.formulations.milp.writer import RowWriter
    >>> writer = RowWriter(2, np.zeros(2), np.ones(2), capacity=6)
    >>> (y,) = writer.columns(np.zeros(1), np.ones(1))
    >>> (q,) = writer.columns(np.zeros(1), np.ones(1), integer=True)
    >>> write_partition(writer, np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), -1.0, y, q, 2)
    >>> np.concatenate(writer.rows[:2])
    array([[ 0.,  0.,  1.,  1., -1., -1.],
           [ 1.,  1.,  0.,  1., -1., -1.]])
    >>> np.concatenate(writer.row_upper[:2])
    array([0., 1.])
    >>> len(np.concatenate(writer.rows))
    10
    """
    used = np.flatnonzero(inner)
    used = used[np.argsort(inner[used], kind="stable")]
    groups = [group for group in np.array_split(used, partitions) if len(group)]
    width = len(inner)
    parts = np.zeros((len(groups), width))
    for k, group in enumerate(groups):
        parts[k, group] = inner[group]
    low = np.minimum(parts * writer.lower, parts * writer.upper).sum(axis=1)
    high = np.maximum(parts * writer.lower, parts * writer.upper).sum(axis=1)
    copies = writer.columns(np.minimum(low, 0.0), np.maximum(high, 0.0))
    writer.copies.append((copies, parts, q))
    each = np.arange(len(groups))
    value = np.zeros(width)  # y = sum of the copies + constant * q
    value[copies] = -1.0
    value[y], value[q] = 1.0, -constant
    writer.add(value[None], 0.0, 0.0)
    rest = parts.sum(axis=0)  # sum of (part - copy) + constant * (1 - q) <= 0
    rest[copies] = -1.0
    rest[q] = -constant
    writer.add(rest[None], -np.inf, -constant)
    above, below = np.zeros((len(groups), width)), np.zeros((len(groups), width))
    above[each, copies] = below[each, copies] = 1.0
    above[:, q], below[:, q] = -high, -low
    writer.add(above, -np.inf, 0.0)  # low * q <= copy <= high * q
    writer.add(below, 0.0, np.inf)
    above, below = parts.copy(), parts.copy()
    above[each, copies] = below[each, copies] = -1.0
    above[:, q], below[:, q] = high, low
    writer.add(above, -np.inf, high)  # low * (1 - q) <= part - copy <= high * (1 - q)
    writer.add(below, low, np.inf)
