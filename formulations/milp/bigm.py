r"""The big-M formulation of unstable ReLU neurons.

For a neuron :math:`y = \max(0, Px + p)` with bounds :math:`l < 0 < u` of its pre-activation,

.. math:: y \ge Px + p, \quad y \ge 0, \quad y \le Px + p - l (1 - q), \quad y \le u q,
          \quad q \in \{0, 1\}

(Fischetti and Jo, "Deep neural networks and mixed integer linear optimization", Constraints 23,
2018; Tjeng, Xiao and Tedrake, ICLR 2019). The tighter the bounds, the tighter the relaxation.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.milp.writer import RowWriter


def write_upper(
    writer: RowWriter,
    inner: FloatArray,
    constant: FloatArray,
    low: FloatArray,
    high: FloatArray,
    y: IntArray,
) -> IntArray:
    r"""Write the big-M rows on the upper side of neurons ``y = max(0, inner @ x + constant)``.

    .. math:: y \le Px + p - l (1 - q), \qquad y \le u q, \qquad q \in \{0, 1\}

    The lower side, :math:`y \ge Px + p` and :math:`y \ge 0`, needs no binary and is written by
    :func:`~milp_rl.formulations.milp.compact.compact_model`.

    Parameters
    ----------
    writer
        Collects the rows.
    inner, constant
        P and p, shapes (neurons, slots) and (neurons,).
    low, high
        l and u, valid bounds of the pre-activations, shape (neurons,).
    y
        The neurons' slots.

    Returns
    -------
    numpy.ndarray
        The slots of the binaries q, shape (neurons,).

    Examples
    --------
    ``y = max(0, a + b - 1)`` of two binary actions, between -1 and 1 before the ReLU. In the slots
    (a, b, y, q) the rows say ``y - a - b + q <= 0`` and ``y - q <= 0``:

    >>> import numpy as np
    >>> from milp_rl.formulations.milp.bigm import write_upper
    >>> from milp_rl.formulations.milp.writer import RowWriter
    >>> writer = RowWriter(2, np.zeros(2), np.ones(2), capacity=4)
    >>> y = writer.columns(np.zeros(1), np.ones(1))
    >>> inner, low, high = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([-1.0]), np.array([1.0])
    >>> write_upper(writer, inner, np.array([-1.0]), low, high, y)
    array([3])
    >>> np.concatenate(writer.rows) + 0.0
    array([[-1., -1.,  1.,  1.],
           [ 0.,  0.,  1., -1.]])
    >>> np.concatenate(writer.row_upper)
    array([0., 0.])
    """
    each = np.arange(len(y))
    q = writer.columns(np.zeros(len(y)), np.ones(len(y)), integer=True)
    under = -inner
    under[each, y] = 1.0
    under[each, q] = -low
    writer.add(under, -np.inf, constant - low)
    switch = np.zeros_like(inner)
    switch[each, y] = 1.0
    switch[each, q] = -high
    writer.add(switch, -np.inf, 0.0)
    return q
