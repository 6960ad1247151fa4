"""A risk score that changes what it predicts: populations, scores and the environment."""

from milp_rl.envs.performative.charts import plot_epochs
from milp_rl.envs.performative.environment import PerformativeRisk
from milp_rl.envs.performative.population import (
    Intervention,
    Population,
    Proportional,
    Threshold,
    no_intervention,
)
from milp_rl.envs.performative.scores import LARGEST_PARAMETER, Epoch, fit_score, use_score

__all__ = [
    "LARGEST_PARAMETER",
    "Epoch",
    "Intervention",
    "PerformativeRisk",
    "Population",
    "Proportional",
    "Threshold",
    "fit_score",
    "no_intervention",
    "plot_epochs",
    "use_score",
]
