"""Monotone functions on a network's outputs, which leave the argmax where it is.

A network that ends in a sigmoid, a hyperbolic tangent, an exponential or a softplus is maximised
before it; the value and the bound are what the function makes of those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from milp_rl.formulations.arrays import FloatArray

Link = Literal["identity", "sigmoid", "tanh", "exp", "softplus"]
"""Name of an increasing function."""

LINKS: tuple[Link, ...] = get_args(Link)


def linked(link: Link, values: ArrayLike) -> FloatArray:
    """Return what the link makes of values, of any shape, infinite ones included."""
    functions: dict[str, Callable[[FloatArray], FloatArray]] = {
        "identity": np.copy,
        "sigmoid": expit,
        "tanh": np.tanh,
        "exp": np.exp,
        "softplus": lambda x: np.logaddexp(0.0, x),
    }
    if link not in functions:
        raise ValueError(f"unknown link {link!r}; there are {', '.join(LINKS)}")
    with np.errstate(over="ignore"):
        return np.asarray(functions[link](np.asarray(values, dtype=np.float64)))
