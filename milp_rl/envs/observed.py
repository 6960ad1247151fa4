"""What an environment returns, checked: finite states and rewards."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 1e30  # so that float32 holds the sums of many


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
