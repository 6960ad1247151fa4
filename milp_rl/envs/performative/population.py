"""Who comes, and what a score makes be done to them: populations and interventions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from milp_rl.formulations.arrays import FloatArray

Intervention = Callable[[FloatArray, FloatArray], FloatArray]
"""Map g from scores and actionable covariates, shape (n,), to new actionable covariates."""


@dataclass(frozen=True)
class Threshold:
    """Lowers the actionable covariate of patients whose score is above a level.

    Parameters
    ----------
    level
        The score above which something is done, in [0, 1].
    strength
        How much the covariate is lowered, at least 0.
    """

    level: float = 0.5
    strength: float = 1.0

    def __call__(self, score: FloatArray, actionable: FloatArray) -> FloatArray:
        """Return the actionable covariates after the intervention."""
        return np.asarray(actionable - self.strength * (score > self.level))


@dataclass(frozen=True)
class Proportional:
    """Lowers the actionable covariate in proportion to the score.

    Parameters
    ----------
    strength
        How much the covariate is lowered at score 1, at least 0.
    """

    strength: float = 2.0

    def __call__(self, score: FloatArray, actionable: FloatArray) -> FloatArray:
        """Return the actionable covariates after the intervention."""
        return np.asarray(actionable - self.strength * score)


def no_intervention(score: FloatArray, actionable: FloatArray) -> FloatArray:
    """Leave the actionable covariates as they are."""
    return actionable


@dataclass(frozen=True)
class Population:
    """Normally distributed covariates; override :meth:`draw` for others.

    Parameters
    ----------
    size
        Patients in an epoch, at least 2.
    mean, deviation
        Means and standard deviations of the static and the actionable covariate; deviations are
        positive.
    correlation
        Correlation of the two covariates, in (-1, 1).
    """

    size: int = 1000
    mean: tuple[float, float] = (0.0, 0.0)
    deviation: tuple[float, float] = (1.0, 1.0)
    correlation: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 2:
            raise ValueError(f"size must be an integer of at least 2, got {self.size!r}")
        if min(self.deviation) <= 0 or not -1 < self.correlation < 1:
            raise ValueError(
                "deviations must be positive and the correlation in (-1, 1), got"
                f" {self.deviation} and {self.correlation}"
            )

    def draw(self, rng: np.random.Generator, size: int) -> FloatArray:
        """Draw covariates, static and actionable, shape (size, 2)."""
        normal = rng.standard_normal((size, 2))
        rest = np.sqrt(1 - self.correlation**2)
        normal[:, 1] = self.correlation * normal[:, 0] + rest * normal[:, 1]
        return np.asarray(np.array(self.mean) + np.array(self.deviation) * normal)
