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
