r"""The two arithmetics that proofs are checked in: float64 with error bounds, and exact rationals.

Both give, for a sum of products, a number and a bound on how far it is from the true one. In
float64, whatever the order of summation (Higham, Accuracy and Stability of Numerical Algorithms,
2002, section 3.1),

.. math:: |\mathrm{fl}(x y) - x y| \le \gamma_n |x| |y|, \qquad \gamma_n = n u / (1 - n u),

and a little more covers the rounding of that bound itself and underflow. A single operation is
rounded outward by ``nextafter``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]  # float64, or objects that are fractions

_STEP = 2.0**-52  # twice the unit roundoff
_TINY = 1e-300  # more than what underflow loses in any sum that fits into memory
_fractions = np.frompyfunc(Fraction, 1, 1)


class Rounded:
    """Float64, every error bounded."""

    def of(self, values: Any) -> Numbers:
        """Return float64 numbers as they are."""
        return np.asarray(values, dtype=np.float64)

    def product(self, a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
        """Return ``a @ b`` and by how much it may be wrong."""
        size = np.matmul(np.abs(a), np.abs(b))
        return np.matmul(a, b), (b.shape[0] + 8) * _STEP * size + _TINY

    def sum(self, *terms: Numbers) -> tuple[Numbers, Numbers]:
        """Return the sum of a few arrays and by how much it may be wrong."""
        total, size = terms[0], np.abs(terms[0])
        for term in terms[1:]:
            total, size = total + term, size + np.abs(term)
        return total, (len(terms) + 8) * _STEP * size + _TINY

    def times(self, a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
        """Return ``a * b``, entry by entry, and by how much it may be wrong."""
        product = a * b
        return product, _STEP * np.abs(product) + _TINY

    def up(self, *terms: Numbers) -> Numbers:
        """Return no less than the sum of a few arrays."""
        total = terms[0]
        for term in terms[1:]:
            total = np.nextafter(total + term, np.inf)
        return total

    def up_times(self, a: Numbers, b: Numbers) -> Numbers:
        """Return no less than ``a * b``, entry by entry."""
        return np.asarray(np.nextafter(a * b, np.inf))

    def up_sum(self, values: Numbers) -> Numbers:
        """Return no less than the sum over the last axis."""
        more = (values.shape[-1] + 8) * _STEP * np.abs(values).sum(axis=-1) + _TINY
        return np.asarray(np.nextafter(values.sum(axis=-1) + more, np.inf))


class Exact:
    """Rational numbers, without any error."""

    def of(self, values: Any) -> Numbers:
        """Return float64 numbers as fractions."""
        return np.asarray(_fractions(np.asarray(values, dtype=np.float64)), dtype=object)

    def product(self, a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
        """Return ``a @ b`` and zeros."""
        found = np.matmul(a, b)
        return found, self._zeros(found)

    def sum(self, *terms: Numbers) -> tuple[Numbers, Numbers]:
        """Return the sum of a few arrays and zeros."""
        found = self.up(*terms)
        return found, self._zeros(found)

    def times(self, a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
        """Return ``a * b``, entry by entry, and zeros."""
        found = np.asarray(a * b)
        return found, self._zeros(found)

    def up(self, *terms: Numbers) -> Numbers:
        """Return the sum of a few arrays."""
        return np.asarray(sum(terms[1:], terms[0]))

    def up_times(self, a: Numbers, b: Numbers) -> Numbers:
        """Return ``a * b``, entry by entry."""
        return np.asarray(a * b)

    def up_sum(self, values: Numbers) -> Numbers:
        """Return the sum over the last axis."""
        return np.asarray(values.sum(axis=-1) + Fraction(0))

    def _zeros(self, like: Numbers) -> Numbers:
        return np.full(like.shape, Fraction(0), dtype=object)


Arithmetic = Rounded | Exact


def float_above(values: Numbers) -> NDArray[np.float64]:
    """Return the float64 numbers at or next above."""
    if values.dtype != object:
        return np.asarray(values, dtype=np.float64)
    nearest = values.astype(np.float64)
    less = np.array(_fractions(nearest) < values, dtype=bool)
    return np.where(less, np.nextafter(nearest, np.inf), nearest)
