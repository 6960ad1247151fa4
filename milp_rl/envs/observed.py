"""What an environment returns, checked: finite states and rewards."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray

_LARGEST = 1e30  # so that float32 holds the sums of many
_LOOKS = 500
_ROUNDED = 1e-12  # of a number, by which one that is computed again may differ
_COARSEST = 0.3  # of a feature's deviation, up to which much can be learnt with steps of float32


def finite_state(observed: Any, length: int, when: str) -> NDArray[np.float32]:
    """Return an observation as float32, shape (length,), or raise ``ValueError``."""
    with np.errstate(over="ignore"):
        state = np.asarray(observed, dtype=np.float32)
    if state.shape != (length,):
        raise ValueError(
            f"the observation {when} has shape {state.shape}, the observation space ({length},)"
        )
    check_finite(state, observed, when)
    return state


def check_finite(state: NDArray[Any], observed: Any, when: str) -> None:
    """Raise ``ValueError`` if a state has an entry that is not finite, by what was observed."""
    finite = np.isfinite(state)
    if not finite.all():
        i = int(np.argmin(finite))
        raise ValueError(
            f"the observation {when} has the value {np.asarray(observed)[i]} at index {i}; a"
            " network needs finite numbers of float32's range"
        )


def finite_reward(reward: Any, when: str) -> float:
    """Return a reward as a float, or raise ``ValueError`` if it is none of at most 1e30."""
    if np.ndim(reward) and np.size(reward) != 1:
        raise ValueError(f"the reward {when} has shape {np.shape(reward)}, it must be one number")
    given = np.asarray(reward).item()
    if not isinstance(given, numbers.Real):
        raise ValueError(f"the reward {when} is {reward!r}, it must be a number")
    value = float(given)
    if not abs(value) <= _LARGEST:
        raise ValueError(
            f"the reward {when} is {value}; nothing can be learnt from it: rewards must be finite"
            f" numbers of at most {_LARGEST:g}, so that float32 holds the sums of many"
        )
    return value


def unresolved(states: NDArray[Any], what: str, coarsest: float = _COARSEST) -> str:
    """Say of which feature of states float32 hardly tells the values apart; empty if of none.

    That is where its steps are more than ``coarsest`` of the feature's standard deviation.
    """
    x = np.asarray(states, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return _coarse(x.min(axis=0), x.max(axis=0), x.std(axis=0), what, coarsest)


def _coarse(
    least: FloatArray, most: FloatArray, spread: FloatArray, what: str, coarsest: float
) -> str:
    """Say it by the features' smallest and largest values and their standard deviations."""
    largest = np.maximum(np.abs(least), np.abs(most))
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.where(np.isfinite(largest), np.spacing(largest.astype(np.float32)), np.inf)
        varies = most - least > _ROUNDED * largest
    coarse = np.flatnonzero(varies & (apart > coarsest * spread))
    if not len(coarse):
        return ""
    j = int(coarse[0])
    return (
        f"feature {j} of {what} is between {least[j]:.12g} and {most[j]:.12g}: float32, in which"
        f" states are kept, tells numbers there apart by {apart[j]:.3g} at best, not little beside"
        f" their deviation of {spread[j]:.3g}. Subtract a number from it, such as the smallest"
    )


class Resolution:
    """Looks at the first observations of an environment before they are rounded to float32.

    Parameters
    ----------
    length
        Of an observation.
    """

    def __init__(self, length: int) -> None:
        self._looks = 0
        self._first = np.zeros(length)
        self._least, self._most = np.full(length, np.inf), np.full(length, -np.inf)
        self._sum, self._squares = np.zeros(length), np.zeros(length)  # beside the first

    def look(self, observed: Any) -> bool:
        """Look at an observation; return whether it was the last one to look at.

        Warns if float32 hardly tells the first 500 apart.
        """
        x = np.asarray(observed, dtype=np.float64)
        if x.shape != self._first.shape or not np.isfinite(x).all():
            return False  # which is told elsewhere
        if not self._looks:
            self._first = x.copy()
        self._looks += 1
        self._least, self._most = np.minimum(self._least, x), np.maximum(self._most, x)
        self._sum += x - self._first
        self._squares += (x - self._first) ** 2
        if self._looks < _LOOKS:
            return False
        mean = self._sum / _LOOKS
        spread = np.sqrt(np.maximum(self._squares / _LOOKS - mean**2, 0.0))
        found = _coarse(self._least, self._most, spread, "the observations", _COARSEST)
        if found:
            warnings.warn(found, stacklevel=2)
        return True
