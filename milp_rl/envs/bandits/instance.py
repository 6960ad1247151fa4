"""What instances share: checks and JSON files, and the paper's rewards."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.bandits.restless_bandit import ArmChains
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import read_json, write_json
from milp_rl.formulations.suggestions import misfit

GOOD_REWARDS = (0.2, 0.15, 0.1)
OTHER_REWARDS = (0.1, 0.15, 0.2)


class Instance:
    """Base of what an environment is made from, each a frozen dataclass that JSON can hold.

    Arrays are stored as read-only copies.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return {name: _to_json(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Rebuild an instance from :meth:`to_dict`; raises ``ValueError`` if it is not one."""
        if not isinstance(data, dict):
            raise ValueError(f"not a {cls.__name__}: an object of its parameters is missing")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"not a {cls.__name__}: {misfit(cls, error)}") from error

    def to_json(self, path: str | Path) -> None:
        """Write the instance; the file appears whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read an instance written by :meth:`to_json`.

        Raises
        ------
        ValueError
            If the file is not JSON or not an instance.
        """
        data = read_json(path)
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _check_integer(self, name: str, lowest: int, highest: int | None = None) -> None:
        """Store an integer field as ``int``, or raise ``ValueError``."""
        value = getattr(self, name)
        whole = isinstance(value, Real) and value % 1 == 0
        if isinstance(value, bool) or not whole or value < lowest:
            raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}")
        if highest is not None and value > highest:
            raise ValueError(f"{name} must be at most {highest}, got {value}")
        object.__setattr__(self, name, int(value))

    def _check_array(
        self,
        name: str,
        shape: tuple[int | None, ...],
        lowest: float = 0.0,
        highest: float = np.inf,
    ) -> None:
        """Store an array field, with any size where ``shape`` is ``None``, or raise."""
        try:
            values = np.array(getattr(self, name), dtype=np.float64)
        except (TypeError, ValueError) as error:  # texts, rows of several lengths
            raise ValueError(f"{name} must be an array of numbers: {error}") from error
        fits = values.ndim == len(shape) and all(
            size > 0 if wanted is None else size == wanted
            for size, wanted in zip(values.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"{name} must have shape ({wanted}), got {values.shape}")
        bad = ~(np.isfinite(values) & (values >= lowest) & (values <= highest))
        if bad.any():
            if (lowest, highest) == (-np.inf, np.inf):
                raise ValueError(f"{name} must be finite, got {values[bad][0]}")
            raise ValueError(
                f"{name} must lie between {lowest:g} and {highest:g}, got {values[bad][0]}"
            )
        self._store(name, values)

    def _check_slots(self, name: str, shape: tuple[int | None, ...]) -> None:
        """Store an array field of zeros and ones as booleans, or raise ``ValueError``."""
        self._check_array(name, shape, 0, 1)
        values = getattr(self, name)
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"{name} must be zeros and ones")
        self._store(name, values.astype(bool))

    def _store(self, name: str, values: NDArray[Any]) -> None:
        values.flags.writeable = False
        object.__setattr__(self, name, values)


class BanditInstance(Instance):
    """Base of the bandits' instances, each with ``rewards`` and ``horizon``.

    ``budget`` is the number B of the paper: how much can be done at once, and how many arms of a
    generated instance are good.
    """

    domain: ClassVar[str]

    if TYPE_CHECKING:  # a property here at run time would become the default of a field

        @property
        def rewards(self) -> FloatArray:
            """Reward of each arm in each state, shape (J, n)."""

        @property
        def horizon(self) -> int:
            """Steps per episode."""

        @property
        def budget(self) -> int:
            """The number B."""

    def __post_init__(self) -> None:
        self._check_array("rewards", (None, None), -np.inf)
        object.__setattr__(self, "rewards", ArmChains(self.rewards).rewards)
        self._check_integer("horizon", 1)

    @property
    def n_arms(self) -> int:
        """Number of arms J."""
        return int(self.rewards.shape[0])

    @classmethod
    @abstractmethod
    def generate(cls, n_arms: int, budget: int, /, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance as in the paper; the same arguments give the same instance."""


def draw_rewards(
    rng: np.random.Generator, n_arms: int, budget: int, name: str = "budget"
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Draw the paper's rewards.

    B random arms are good (rewards 0.2, 0.15, 0.1 and 4, 5 or 6 at the top), the others pay 0.1,
    0.15, 0.2 and 1, 2 or 3 at the top: the first rewards lead a myopic policy away from the good
    arms.

    Parameters
    ----------
    rng
        Source of randomness.
    n_arms
        Number of arms J.
    budget
        Number of good arms B, 1 to J.
    name
        What the caller calls the budget.

    Returns
    -------
    tuple of numpy.ndarray
        Rewards, shape (J, 4), and which arms are good, shape (J,).

    Raises
    ------
    ValueError
        If B is not between 1 and J.
    """
    if not 1 <= budget <= n_arms:
        raise ValueError(f"need 1 <= {name} <= n_arms, got {name}={budget}, n_arms={n_arms}")
    good = rng.permutation(n_arms) < budget
    return rewards_of(rng, good), good


def rewards_of(rng: np.random.Generator, good: NDArray[np.bool_]) -> FloatArray:
    """Draw the paper's rewards, shape (J, 4), for arms of which it is known which are good."""
    n_arms = len(good)
    rewards = np.empty((n_arms, 4))
    rewards[:, :3] = np.where(good[:, None], GOOD_REWARDS, OTHER_REWARDS)
    rewards[:, 3] = np.where(good, rng.integers(4, 7, size=n_arms), rng.integers(1, 4, size=n_arms))
    return rewards


def first_are_good(n_arms: int, budget: int) -> NDArray[np.bool_]:
    """Return that the first B arms are good, as the published code has it.

    Raises
    ------
    ValueError
        If B is not between 1 and J.
    """
    if not 1 <= budget <= n_arms:
        raise ValueError(f"need 1 <= budget <= n_arms, got budget={budget}, n_arms={n_arms}")
    return np.arange(n_arms) < budget


def _to_json(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
