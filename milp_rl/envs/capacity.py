"""The capacity domain: workers of limited capacity serve arms of different cost.

Domain 4 of Xu, Wilder, Khalil and Tambe (ICLR 2025): the arms assigned to a worker cost at most
its capacity; an arm that is served is acted on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.restless_bandit import ArmChains, RestlessBandit
from milp_rl.formulations.actions.base import ActionSpace
from milp_rl.formulations.actions.capacity import Capacity
from milp_rl.formulations.files import write_atomically
from milp_rl.formulations.network import FloatArray

GOOD_REWARDS = (0.2, 0.15, 0.1)
OTHER_REWARDS = (0.1, 0.15, 0.2)


@dataclass(frozen=True, eq=False)
class CapacityInstance:
    """One capacity-constrained bandit.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n).
    acting
        Probability of moving up when acted on, shape (J,), in [0, 1].
    passive
        Probability of moving up when not acted on, shape (J,), in [0, 1].
    costs
        Cost of serving each arm, shape (J,), nonnegative.
    capacities
        Capacity of each worker, shape (B,), nonnegative.
    horizon
        Steps an episode, at least 1.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    rewards: FloatArray
    acting: FloatArray
    passive: FloatArray
    costs: FloatArray
    capacities: FloatArray
    horizon: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewards", ArmChains(self.rewards).rewards)
        for name in ("acting", "passive", "costs", "capacities"):
            values = np.array(getattr(self, name), dtype=np.float64)
            expected = values.size if name == "capacities" else self.n_arms
            if values.shape != (expected,) or not expected:
                wanted = "(workers,)" if name == "capacities" else f"({self.n_arms},)"
                raise ValueError(f"{name} must have shape {wanted}, got {values.shape}")
            highest = 1.0 if name in ("acting", "passive") else np.inf
            bad = ~(np.isfinite(values) & (values >= 0) & (values <= highest))
            if bad.any():
                raise ValueError(f"{name} must lie between 0 and {highest}, got {values[bad][0]}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        if isinstance(self.horizon, bool) or int(self.horizon) != self.horizon or self.horizon < 1:
            raise ValueError(f"horizon must be an integer of at least 1, got {self.horizon}")

    @property
    def n_arms(self) -> int:
        """Number of arms J."""
        return int(self.rewards.shape[0])

    @property
    def n_workers(self) -> int:
        """Number of workers B."""
        return len(self.capacities)

    @classmethod
    def generate(
        cls, n_arms: int = 10, n_workers: int = 3, *, horizon: int = 20, seed: int
    ) -> CapacityInstance:
        """Draw an instance as in the paper; the same arguments give the same instance.

        B random arms are good (rewards 0.2, 0.15, 0.1 and 4, 5 or 6 at the top), the others pay
        0.1, 0.15, 0.2 and 1, 2 or 3 at the top: the first rewards lead a myopic policy away from
        the good arms. Up probabilities are uniform on [0.7, 0.9) if acted on and on [0, 0.2) if
        not; costs uniform on 2..6; capacities uniform on 2..7, of which at least one is large
        enough for the cheapest arm (otherwise there would be nothing to decide).

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``n_workers``.
        n_workers
            Number of workers B, at least 1; also the number of good arms.
        horizon
            Steps an episode.
        seed
            Seed of the generator.
        """
        if not 1 <= n_workers <= n_arms:
            raise ValueError(
                f"need 1 <= n_workers <= n_arms, got n_workers={n_workers}, n_arms={n_arms}"
            )
        rng = np.random.default_rng(seed)
        good = rng.permutation(n_arms) < n_workers
        rewards = np.empty((n_arms, 4))
        rewards[:, :3] = np.where(good[:, None], GOOD_REWARDS, OTHER_REWARDS)
        rewards[:, 3] = np.where(
            good, rng.integers(4, 7, size=n_arms), rng.integers(1, 4, size=n_arms)
        )
        acting = rng.uniform(0.7, 0.9, size=n_arms)
        passive = rng.uniform(0.0, 0.2, size=n_arms)
        costs = rng.integers(2, 7, size=n_arms).astype(np.float64)
        capacities = rng.integers(2, 8, size=n_workers).astype(np.float64)
        while capacities.max() < costs.min():
            capacities = rng.integers(2, 8, size=n_workers).astype(np.float64)
        return cls(rewards, acting, passive, costs, capacities, horizon)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in values.items()
        }

    @classmethod
    def from_dict(cls, data: Any) -> CapacityInstance:
        """Rebuild an instance from :meth:`to_dict`; raises ``ValueError`` if it is not one."""
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"not a capacity instance: {error}") from error

    def to_json(self, path: str | Path) -> None:
        """Write the instance; the file appears whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_atomically(path, text.encode())

    @classmethod
    def from_json(cls, path: str | Path) -> CapacityInstance:
        """Read an instance written by :meth:`to_json`.

        Raises
        ------
        ValueError
            If the file is not JSON or not an instance.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a JSON file: {error}") from error
        return cls.from_dict(data)


class CapacityBandit(RestlessBandit):
    """A restless bandit whose arms are served by workers of limited capacity.

    ``gymnasium.make("milp_rl/CapacityBandit-v0", instance=...)`` gives the same environment after
    ``import milp_rl.envs``. See :class:`RestlessBandit` for observation, reward and episodes. The
    action is binary, shape (J,): which arms are acted on.

    Parameters
    ----------
    instance
        Arms, costs and capacities; without, ``CapacityInstance.generate(seed=0)``.
    """

    def __init__(self, instance: CapacityInstance | None = None) -> None:
        self.instance = CapacityInstance.generate(seed=0) if instance is None else instance
        block: ActionSpace = Capacity(self.instance.costs, self.instance.capacities)
        super().__init__(ArmChains(self.instance.rewards), block, self.instance.horizon)

    def up_probability(self, action: ArrayLike) -> FloatArray:
        """Return the acting probability for arms acted on, the passive one for the others."""
        a = np.asarray(action)
        if a.shape[-1:] != (self.instance.n_arms,):
            raise ValueError(f"an action has shape (..., {self.instance.n_arms}), got {a.shape}")
        return np.where(a > 0, self.instance.acting, self.instance.passive)

    def action_gains(self, state: ArrayLike) -> FloatArray:
        """Return the expected one-step reward that acting on each arm adds.

        The expected reward of an action is that of doing nothing plus ``gains @ action``.

        Parameters
        ----------
        state
            Arm states, shape (J,).

        Returns
        -------
        numpy.ndarray
            Shape (J,).
        """
        actions = np.vstack([np.zeros(self.instance.n_arms), np.eye(self.instance.n_arms)])
        rewards = self.expected_reward(state, actions)
        return np.asarray(rewards[1:] - rewards[0])
