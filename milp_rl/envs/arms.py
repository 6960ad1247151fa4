"""Which numbers of a state belong to which arm, as an environment says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Arms:
    """How states and actions go together where each action variable is about one arm.

    An environment that has these as its attribute ``arms`` can be played with an
    :class:`~milp_rl.ArmQNetwork` of the same arguments. A state has ``n_arms * arm_features +
    shared_features`` numbers, an action ``n_arms``.

    Parameters
    ----------
    n_arms
        Number of arms, one action variable each, at least 1.
    arm_features
        Numbers of a state that are about one arm, for each arm, at least 0.
    shared_features
        Numbers of a state that are about no arm, at its end, at least 0.
    layout
        ``"arm"``: the features of the first arm, then of the second; ``"feature"``: the first
        feature of all arms, then the second.
    neighbours
        Which arms influence which, shape (n_arms, n_arms), not negative; ``None``: not known.

    Raises
    ------
    ValueError
        If a number or shape is wrong.
    """

    n_arms: int
    arm_features: int
    shared_features: int = 0
    layout: Literal["arm", "feature"] = "arm"
    neighbours: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name, least in (("n_arms", 1), ("arm_features", 0), ("shared_features", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.layout not in ("arm", "feature"):
            raise ValueError(f"layout must be 'arm' or 'feature', got {self.layout!r}")
        near, shape = self.neighbours, (self.n_arms, self.n_arms)
        if near is not None and (
            near.shape != shape or not (np.isfinite(near) & (near >= 0)).all()
        ):
            raise ValueError(
                f"neighbours must be finite and not negative, of shape {shape}, got {near.shape}"
            )
