r"""A risk score that changes what it predicts, as a Gymnasium environment.

After Liley, Emerson, Mateen, Vallejos, Aslett and Vollmer, "Model updating after interventions
paradoxically introduces bias" (AISTATS 2021), and Perdomo, Zrnic, Mendler-Dünner and Hardt,
"Performative prediction" (ICML 2020). Patients have a static covariate :math:`x^s` and an
actionable one :math:`x^a`; the probability of an event is

.. math:: f(x^s, x^a) = \sigma(x^s + x^a).

In epoch 0 nothing is done, and a first score is fitted to the events. In every later epoch a new
population comes, the score in use :math:`\rho` drives an intervention

.. math:: x^a(1) = g(\rho(x^s, x^a(0)),\, x^a(0)),

larger for a larger score, and events happen with probability :math:`f(x^s, x^a(1))`. The action
chooses a score, :math:`\rho_e(x) = \sigma(\theta_0 + \theta_1 x^s + \theta_2 x^a)` with
:math:`\theta \in [-2, 2]^3`. Which score drives the intervention of epoch e is the ``timing``:

- ``"immediate"``: :math:`\rho_e`, on the population that the action is chosen for. An action has
  all its effect in its own reward, so that this is a bandit.
- ``"previous"``: :math:`\rho_{e-1}`, as Liley et al. have it. What is chosen in one epoch acts in
  the next, so that history matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.known_model import StateArray
from milp_rl.envs.performative.charts import plot_epochs
from milp_rl.envs.performative.population import (
    Intervention,
    Population,
    Threshold,
    no_intervention,
)
from milp_rl.envs.performative.scores import LARGEST_PARAMETER, Epoch, fit_score, use_score
from milp_rl.envs.spaces import FeasibleBox
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box


class PerformativeRisk(gym.Env[StateArray, NDArray[Any]]):
    """Choosing the next risk score, epoch after epoch.

    Populations and the luck of outcomes depend on the seed alone, not on the actions.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleBox`, ``Box(-2, 2, (3,), float64)``: the parameters theta
    of the score of the next epoch, which drives the intervention of that epoch, or, with
    ``timing="previous"``, of the one after it.

    Observation Space
    -----------------
    ``Box(0, 1, (n_quantiles,), float32)``: quantiles of the scores of the last epoch's patients, at
    the levels (k + 1/2) / n_quantiles. With ``observation="scores"`` the scores themselves, shape
    (population.size,).

    Rewards
    -------
    By default events prevented per patient, less ``cost`` times the mean size of the intervention
    in units of the actionable covariate; see ``reward`` for the other one and for one's own.

    Starting State
    --------------
    Epoch 0: a population on which nothing is done, scored by the score that was fitted to its
    outcomes. There are no options of :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` epochs with intervention, 20 by default; never terminated. The info
    of :meth:`reset` and :meth:`step` has ``epoch``, its number, and, as means over its patients,
    ``incidence``, ``prevented``, ``intervention`` and ``calibration_error``.

    Arguments
    ---------
    ``import milp_rl.envs`` registers the environment.

    ```python
    gymnasium.make("milp_rl/PerformativeRisk-v0", outcomes="sampled", cost=0.2)
    ```

    Parameters
    ----------
    population
        Size and distribution of the covariates.
    timing
        Which score drives the intervention of an epoch: ``"immediate"``, that of the epoch, or
        ``"previous"``, that of the epoch before.
    intervention
        The map g: :class:`Threshold`, :class:`Proportional`, or a function of scores and
        actionable covariates.
    outcomes
        ``"probability"``: outcomes are the probabilities; ``"sampled"``: events are drawn.
    reward
        ``"cost_adjusted"``: events prevented per patient, less ``cost`` times the mean size of the
        intervention. ``"calibration"``: minus the mean squared difference between the score and
        the outcomes after the intervention it drove. Or a function of the :class:`Epoch`.
    cost
        Cost of a unit of intervention, at least 0.
    observation
        ``"quantiles"``: ``n_quantiles`` evenly spaced quantiles of the scores. ``"scores"``: all
        scores, in the order of the patients.
    n_quantiles
        Number of quantiles, at least 1.
    horizon
        Epochs per episode, at least 1.
    render_mode
        ``None`` or ``"rgb_array"``.

    Raises
    ------
    ValueError
        If an option is unknown or a number out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        population: Population | None = None,
        *,
        timing: Literal["immediate", "previous"] = "immediate",
        intervention: Intervention | None = None,
        outcomes: Literal["probability", "sampled"] = "probability",
        reward: Literal["cost_adjusted", "calibration"]
        | Callable[[Epoch], float] = "cost_adjusted",
        cost: float = 0.1,
        observation: Literal["quantiles", "scores"] = "quantiles",
        n_quantiles: int = 10,
        horizon: int = 20,
        render_mode: str | None = None,
    ) -> None:
        for name, value, known in (
            ("timing", timing, ("immediate", "previous")),
            ("outcomes", outcomes, ("probability", "sampled")),
            ("observation", observation, ("quantiles", "scores")),
            ("render_mode", render_mode, (None, "rgb_array")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        if not callable(reward) and reward not in ("cost_adjusted", "calibration"):
            raise ValueError(
                f"reward must be 'cost_adjusted', 'calibration' or a function, got {reward!r}"
            )
        if horizon < 1 or n_quantiles < 1 or not cost >= 0:
            raise ValueError(
                "horizon and n_quantiles must be at least 1 and cost nonnegative, got"
                f" {horizon}, {n_quantiles} and {cost}"
            )
        self.timing = timing
        self.population = Population() if population is None else population
        self.intervention: Intervention = Threshold() if intervention is None else intervention
        self.outcomes, self.reward, self.cost = outcomes, reward, float(cost)
        self.observation, self.n_quantiles = observation, int(n_quantiles)
        self.horizon = int(horizon)
        self.render_mode = render_mode
        limit = np.full(3, LARGEST_PARAMETER)
        self._block = Box(-limit, limit)
        self.action_space = FeasibleBox(self._block)
        length = n_quantiles if observation == "quantiles" else self.population.size
        self.observation_space = gym.spaces.Box(0.0, 1.0, (length,), np.float32)
        self.epochs: list[Epoch] = []

    @property
    def epoch(self) -> Epoch:
        """The last epoch; raises ``ResetNeeded`` before the first episode."""
        if not self.epochs:
            raise gym.error.ResetNeeded("call reset() first")
        return self.epochs[-1]

    def action_space_block(self, state: ArrayLike | None = None) -> ActionSpace:
        """Return the feasible set; it is the same in every state."""
        return self._block

    def value(self, epoch: Epoch) -> float:
        """Return the reward of an epoch."""
        if callable(self.reward):
            return float(self.reward(epoch))
        if self.reward == "calibration":
            return -epoch.calibration_error
        return epoch.prevented - self.cost * epoch.intervention

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode: epoch 0, and the first score fitted to it."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; there are none")
        covariates, luck = self._arrivals()
        first = use_score(np.zeros(3), covariates, no_intervention, luck, number=0)
        fitted = fit_score(first)
        self.epochs = [use_score(fitted, covariates, no_intervention, luck, number=0)]
        return self._observed(), self._info()

    def step(self, action: NDArray[Any]) -> tuple[StateArray, float, bool, bool, dict[str, Any]]:
        """Use the score with these parameters on a new population.

        Raises
        ------
        ValueError
            If the action is outside the box.
        gymnasium.error.ResetNeeded
            If the episode is over or has not begun.
        """
        number = self.epoch.number + 1
        if number > self.horizon:
            raise gym.error.ResetNeeded("the episode is over; call reset() first")
        if violations := self._block.violations(action):
            raise ValueError(f"infeasible action: {'; '.join(violations)}")
        covariates, luck = self._arrivals()
        theta = np.clip(np.asarray(action, dtype=float), -LARGEST_PARAMETER, LARGEST_PARAMETER)
        driving = theta if self.timing == "immediate" else self.epoch.parameters
        self.epochs.append(
            use_score(theta, covariates, self.intervention, luck, number=number, driving=driving)
        )
        reward = self.value(self.epoch)
        return self._observed(), reward, False, number == self.horizon, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """Draw scores against risk, with the intervention and without, in up to six epochs."""
        if self.render_mode is None:
            return None
        figure = plot_epochs(self.epochs[-6:])
        figure.canvas.draw()
        canvas: Any = figure.canvas
        return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()

    def _arrivals(self) -> tuple[FloatArray, FloatArray | None]:
        size = self.population.size
        covariates = np.asarray(self.population.draw(self.np_random, size), dtype=np.float64)
        if covariates.shape != (size, 2) or not np.isfinite(covariates).all():
            raise ValueError(
                f"a population must be finite, of shape ({size}, 2), got {covariates.shape}"
            )
        luck = self.np_random.random(size)
        return covariates, luck if self.outcomes == "sampled" else None

    def _observed(self) -> StateArray:
        scores = self.epoch.scores
        if self.observation == "quantiles":
            shares = (np.arange(self.n_quantiles) + 0.5) / self.n_quantiles
            scores = np.quantile(scores, shares)
        return np.asarray(scores, dtype=np.float32)

    def _info(self) -> dict[str, Any]:
        epoch = self.epoch
        return {
            "epoch": epoch.number,
            "incidence": float(epoch.outcomes.mean()),
            "prevented": epoch.prevented,
            "intervention": epoch.intervention,
            "calibration_error": epoch.calibration_error,
        }
