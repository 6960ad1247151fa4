"""Logged decisions: the one table that every off-policy estimator and model takes.

Nothing depends on the order of the rows: models and estimates are made in an order of their own, by
trajectory and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import FloatArray, IntArray, unmasked


@dataclass(frozen=True, eq=False)
class LoggedDecisions:
    """Decisions of a behaviour policy, and what a target policy would do in their place.

    Parameters
    ----------
    contexts
        Shape (N, d), finite.
    actions
        Number of each action taken, shape (N,), 0..A-1.
    rewards
        Shape (N,), finite.
    propensities
        Probability with which each action was taken, shape (N,), in (0, 1].
    target
        Probabilities of the target policy, shape (N, A).
    trajectory
        The trajectory that each decision belongs to, such as the patient, any values that can be
        sorted, shape (N,): decisions of one are resampled together.
    step
        Number of each decision in its trajectory, 0, 1, ..., shape (N,): with it rows may be in any
        order. By default the rows of a trajectory must be in the order of time (those of others may
        lie between them).

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range; if a trajectory has a step twice.
    """

    contexts: FloatArray
    actions: NDArray[np.intp]
    rewards: FloatArray
    propensities: FloatArray
    target: FloatArray
    trajectory: NDArray[Any]
    step: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        for name in ("contexts", "rewards", "propensities", "target"):
            object.__setattr__(self, name, _finite(getattr(self, name), name))
        n = len(self.actions)
        object.__setattr__(self, "trajectory", np.asarray(self.trajectory))
        for name in ("contexts", "rewards", "propensities", "target", "trajectory"):
            if len(getattr(self, name)) != n or not n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, actions {n}")
        if self.contexts.ndim != 2 or self.target.ndim != 2:
            raise ValueError("contexts and target must be tables")
        for name in ("actions", "rewards", "propensities", "trajectory"):
            shape = np.shape(getattr(self, name))
            if shape != (n,):
                raise ValueError(f"{name} must have shape ({n},), got {shape}")
        wanted = f"actions must be 0..{self.n_actions - 1}, whole numbers"
        numbers = _finite(self.actions, "actions")
        outside = (numbers < 0) | (numbers >= self.n_actions) | (numbers != np.floor(numbers))
        _refuse(wanted, outside, numbers)
        object.__setattr__(self, "actions", numbers.astype(np.intp))
        outside = (self.propensities <= 0) | (self.propensities > 1 + 1e-9)
        _refuse("propensities must be in (0, 1]", outside, self.propensities)
        sums = self.target.sum(axis=1)
        outside = (self.target < -1e-9).any(axis=1) | (np.abs(sums - 1) > 1e-4)
        _refuse("the rows of target must be probabilities", outside, self.target)
        if (self.codes < 0).any():
            raise ValueError(f"trajectory must not be missing: row {int(self.codes.argmin())} is")
        if self.step is not None:
            object.__setattr__(self, "step", self._checked_step())

    def _checked_step(self) -> IntArray:
        """Return the steps as integers, or raise ``ValueError`` with the first wrong row."""
        steps = np.asarray(self.step, dtype=np.float64)
        if steps.shape != (len(self),):
            raise ValueError(f"step has shape {steps.shape}, actions {len(self)} rows")
        wrong = ~((steps >= 0) & (steps == np.floor(steps)) & (steps < 2**31))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"step must be 0, 1, ...: row {row} has {steps[row]:g}")
        order = np.lexsort((steps, self.codes))
        one, two = order[:-1], order[1:]
        twice = (steps[one] == steps[two]) & (self.codes[one] == self.codes[two])
        if twice.any():
            i = int(np.argmax(twice))
            raise ValueError(
                f"trajectory {_plain(self.trajectory[two[i]])!r} has step {int(steps[two[i]])}"
                f" twice, in rows {one[i]} and {two[i]}"
            )
        return steps.astype(np.intp)

    @cached_property
    def codes(self) -> IntArray:
        """Position of each row's trajectory among the sorted ones, shape (N,)."""
        try:
            return np.asarray(pd.factorize(self.trajectory, sort=True)[0])
        except TypeError as error:
            raise ValueError(f"trajectories cannot be sorted: {error}") from error

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def n_actions(self) -> int:
        """Number of actions A."""
        return int(self.target.shape[1])

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories."""
        return int(self.codes.max()) + 1

    def ratios(self, truncation: float | None = None) -> FloatArray:
        """Return pi / pi_b of each decision, at most ``truncation``."""
        rho = self.target[np.arange(len(self)), self.actions] / self.propensities
        return np.asarray(rho if truncation is None else np.minimum(rho, truncation))

    def by_trajectory(self, values: FloatArray) -> FloatArray:
        """Sum over the decisions of each trajectory."""
        sums: FloatArray = np.bincount(self.codes, values, self.n_trajectories).astype(np.float64)
        return sums

    def rows(self, keep: ArrayLike) -> LoggedDecisions:
        """Return some of the decisions."""
        k = np.asarray(keep)
        return LoggedDecisions(
            self.contexts[k],
            self.actions[k],
            self.rewards[k],
            self.propensities[k],
            self.target[k],
            self.trajectory[k],
            None if self.step is None else self.step[k],
        )

    def order(self, *, trajectories: bool) -> IntArray:
        """Return the rows by trajectory and step, which is the same whatever their order is.

        Parameters
        ----------
        trajectories
            Whether the steps of a trajectory must be 0, 1, ... without gaps. Without steps, the
            rows of one are then as they are; otherwise sorted by what is logged.

        Raises
        ------
        ValueError
            If a step is missing.
        """
        if self.step is None and trajectories:
            return np.argsort(self.codes, kind="stable")
        if self.step is None:
            logged = (self.propensities, self.rewards, self.actions)
            return np.lexsort((*logged, *self.contexts.T, self.codes))
        order = np.lexsort((self.step, self.codes))
        if trajectories:
            counts = np.bincount(self.codes)
            expected = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
            missing = self.step[order] != expected
            if missing.any():
                i = int(np.argmax(missing))
                row = order[i]
                raise ValueError(
                    f"trajectory {_plain(self.trajectory[row])!r} has no step {expected[i]}: the"
                    f" next is {self.step[row]}, in row {row}; trajectories need steps 0, 1, ..."
                    " without gaps"
                )
        return order


def _finite(values: Any, name: str) -> FloatArray:
    """Return numbers, or raise ``ValueError`` with the first row that has another thing."""
    try:
        found = np.asarray(unmasked(values, name), dtype=np.float64)
    except (TypeError, ValueError) as error:
        rows = np.asarray(values, dtype=object)
        row = next((i for i, value in enumerate(rows) if not _is_numeric(value)), None)
        about = "" if row is None else f": row {row} has {_plain(rows[row])!r}"
        raise ValueError(f"{name} must be numbers{about}") from error
    _refuse(f"{name} must be finite", ~np.isfinite(found), found)
    return found


def _is_numeric(value: Any) -> bool:
    try:
        np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _refuse(wanted: str, wrong: NDArray[np.bool_], values: NDArray[Any]) -> None:
    """Raise ``ValueError`` with the first row of which something is wrong, if there is one."""
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise ValueError(f"{wanted}: row {row} has {values[row]}")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
