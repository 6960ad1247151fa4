"""How the states and actions of an environment belong to arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from milp_rl.formulations.arrays import FloatArray


@dataclass(frozen=True)
class Arms:
    """Which parts of a state vector and of an action vector belong to the same arm.

    An arm is whatever is acted on: a machine, a patient, a site. An environment says so with an
    attribute ``arm_layout``, by which a learner builds a network whose arms share one encoder
    (:class:`milp_rl.ArmQNetwork`).

    Parameters
    ----------
    n_arms
        Number of arms, at least 1.
    arm_features
        Features of an arm in the state, at least 0.
    shared_features
        Features that belong to no arm, at least 0; they come last in the state.
    arm_actions
        Action variables of an arm, at least 1.
    layout
        ``"arm"``: the features, and the actions, of the first arm, of the second and so on;
        ``"feature"``: the first feature, or action, of all arms, then the second.
    neighbours
        Which arms are next to which, shape (n_arms, n_arms), non-negative; ``None``: not known.
    names
        A name for each arm; empty: none.

    Raises
    ------
    ValueError
        If a number is out of range or a shape is wrong.

    Examples
    --------
    >>> from milp_rl.envs.arms import Arms
    >>> Arms(20, arm_features=2, shared_features=1).state_dim
    41
    """

    n_arms: int
    arm_features: int = 1
    shared_features: int = 0
    arm_actions: int = 1
    layout: Literal["arm", "feature"] = "arm"
    neighbours: FloatArray | None = field(default=None, compare=False)
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        least = {"n_arms": 1, "arm_features": 0, "shared_features": 0, "arm_actions": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        if self.layout not in ("arm", "feature"):
            raise ValueError(f"layout must be 'arm' or 'feature', got {self.layout!r}")
        n = self.n_arms
        if self.neighbours is not None:
            near = np.array(self.neighbours, dtype=np.float64)
            if near.shape != (n, n) or not (np.isfinite(near) & (near >= 0)).all():
                raise ValueError(
                    f"neighbours must have shape ({n}, {n}), finite and not negative, got"
                    f" {near.shape}"
                )
            object.__setattr__(self, "neighbours", near)
        if self.names and len(self.names) != n:
            raise ValueError(f"there must be {n} names, got {len(self.names)}")

    @property
    def state_dim(self) -> int:
        """Length of a state."""
        return self.n_arms * self.arm_features + self.shared_features

    @property
    def n_actions(self) -> int:
        """Number of action variables."""
        return self.n_arms * self.arm_actions


def arms_of(env: gym.Env[Any, Any], state_dim: int, n_actions: int) -> Arms | None:
    """Return the arms that an environment, or a wrapper of it, declares; ``None`` if none.

    Raises
    ------
    ValueError
        If they do not fit its states and actions, or ``arm_layout`` is something else.
    """
    if not env.has_wrapper_attr("arm_layout"):
        return None
    arms = env.get_wrapper_attr("arm_layout")
    if arms is None:
        return None
    if not isinstance(arms, Arms):
        raise ValueError(
            "arm_layout must be a milp_rl.envs.arms.Arms, such as Arms(20, arm_features=2), or"
            f" None, got {type(arms).__name__}: {arms!r:.60}"
        )
    if (arms.state_dim, arms.n_actions) != (state_dim, n_actions):
        raise ValueError(
            f"the environment's arms have {arms.state_dim} state features and {arms.n_actions}"
            f" actions, the environment has {state_dim} and {n_actions}; a wrapper that changes"
            " them says its own arm_layout, or arm_layout = None"
        )
    return arms
