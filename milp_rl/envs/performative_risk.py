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
chooses the score that is used next,
:math:`\rho(x) = \sigma(\theta_0 + \theta_1 x^s + \theta_2 x^a)` with
:math:`\theta \in [-2, 2]^3`; the reward is what comes of it in the population that it is used on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from milp_rl.envs.known_model import StateArray
from milp_rl.envs.spaces import FeasibleBox
from milp_rl.formulations.arrays import FloatArray, check_vector
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.reports.document import new_figure

LARGEST_PARAMETER = 2.0

Intervention = Callable[[FloatArray, FloatArray], FloatArray]
"""Map g from scores and actionable covariates, shape (n,), to new actionable covariates."""


@dataclass(frozen=True)
class Threshold:
    """Lowers the actionable covariate of patients whose score is above a level.

    Parameters
    ----------
    level
        The level, in [0, 1].
    strength
        By how much it is lowered, at least 0.
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
        By how much it is lowered at score 1, at least 0.
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
        Of the static and the actionable covariate; deviations are positive.
    correlation
        Between them, in (-1, 1).
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


@dataclass(frozen=True, eq=False)
class Epoch:
    """What happened in one epoch.

    Parameters
    ----------
    number
        0 for the one without intervention.
    parameters
        Of the score in use, shape (3,).
    covariates
        Static and actionable, before the intervention, shape (n, 2).
    scores
        Shape (n,), in [0, 1].
    treated
        Actionable covariates after the intervention, shape (n,).
    risk_before, risk_after
        Probabilities of an event without and with the intervention, shape (n,).
    outcomes
        Events, zeros and ones; with probability outcomes, ``risk_after``. Shape (n,).
    """

    number: int
    parameters: FloatArray
    covariates: FloatArray
    scores: FloatArray
    treated: FloatArray
    risk_before: FloatArray
    risk_after: FloatArray
    outcomes: FloatArray

    @property
    def intervention(self) -> float:
        """Mean size of the intervention, in units of the actionable covariate."""
        return float(np.abs(self.covariates[:, 1] - self.treated).mean())

    @property
    def calibration_error(self) -> float:
        """Mean squared difference between the score and the outcomes."""
        return float(((self.scores - self.outcomes) ** 2).mean())

    @property
    def prevented(self) -> float:
        """Expected events without intervention, less those that happened, a patient."""
        return float((self.risk_before - self.outcomes).mean())


class PerformativeRisk(gym.Env[StateArray, NDArray[Any]]):
    """Choosing the next risk score, epoch after epoch.

    Registered as ``milp_rl/PerformativeRisk-v0``. The action is theta, a vector in [-2, 2]^3. The
    observation after an epoch is a summary of the scores in it; before the first step, of those
    of the score fitted in epoch 0. Episodes are truncated after ``horizon`` epochs with
    intervention. Populations and the luck of outcomes depend on the seed alone, not on the actions.

    Parameters
    ----------
    population
        Size and distribution of the covariates.
    intervention
        The map g: :class:`Threshold`, :class:`Proportional`, or a function of scores and
        actionable covariates.
    outcomes
        ``"probability"``: outcomes are the probabilities; ``"sampled"``: events are drawn.
    reward
        ``"cost_adjusted"``: events prevented a patient, less ``cost`` times the mean size of the
        intervention. ``"calibration"``: minus the mean squared difference between the score and
        the outcomes after the intervention it drove. Or a function of the :class:`Epoch`.
    cost
        Of a unit of intervention, at least 0.
    observation
        ``"quantiles"``: that many evenly spaced quantiles of the scores. ``"scores"``: all scores,
        in the order of the patients.
    n_quantiles
        At least 1.
    horizon
        Epochs an episode, at least 1.
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

    def simulate(
        self,
        parameters: ArrayLike,
        covariates: FloatArray,
        luck: FloatArray | None = None,
        *,
        number: int = 1,
        intervention: Intervention | None = None,
    ) -> Epoch:
        """Use a score on a population.

        Parameters
        ----------
        parameters
            Theta, shape (3,).
        covariates
            Shape (n, 2).
        luck
            Uniform numbers, shape (n,), for sampled outcomes; without, outcomes are probabilities.
        number
            Of the epoch.
        intervention
            Another map than the environment's.
        """
        theta = check_vector(parameters, "parameters")
        static, actionable = covariates.T
        scores = expit(theta[0] + theta[1] * static + theta[2] * actionable)
        act = self.intervention if intervention is None else intervention
        treated = np.asarray(act(scores, actionable), dtype=np.float64)
        if treated.shape != actionable.shape or not np.isfinite(treated).all():
            raise ValueError(
                f"the intervention must return {len(actionable)} finite covariates, got"
                f" {treated.shape}"
            )
        before, after = expit(static + actionable), expit(static + treated)
        happened = after if luck is None else (luck < after).astype(np.float64)
        return Epoch(number, theta, covariates, scores, treated, before, after, happened)

    def value(self, epoch: Epoch) -> float:
        """Return the reward of an epoch."""
        if callable(self.reward):
            return float(self.reward(epoch))
        if self.reward == "calibration":
            return -epoch.calibration_error
        return epoch.prevented - self.cost * epoch.intervention

    def fit(self, epoch: Epoch) -> FloatArray:
        """Fit a score to the outcomes of an epoch given the covariates before the intervention.

        Returns
        -------
        numpy.ndarray
            Parameters of an unpenalised logistic regression, cut off at -2 and 2, shape (3,).
        """
        y, n = epoch.outcomes, len(epoch.outcomes)
        # A probability is so much of an event and so much of none.
        x = np.concatenate([epoch.covariates, epoch.covariates])
        labels, weights = np.repeat([1, 0], n), np.concatenate([y, 1 - y])
        used = weights > 0
        if len(np.unique(labels[used])) < 2:  # all or none had the event
            return np.array([LARGEST_PARAMETER * (2 * labels[used][0] - 1), 0.0, 0.0])
        model = LogisticRegression(C=np.inf, max_iter=1000)
        model.fit(x[used], labels[used], sample_weight=weights[used])
        theta = np.concatenate([model.intercept_, model.coef_[0]])
        return np.asarray(np.clip(theta, -LARGEST_PARAMETER, LARGEST_PARAMETER))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode: epoch 0, and the first score fitted to it."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}")
        covariates, luck = self._arrivals()
        first = self.simulate(np.zeros(3), covariates, luck, number=0, intervention=no_intervention)
        fitted = self.fit(first)
        self.epochs = [
            self.simulate(fitted, covariates, luck, number=0, intervention=no_intervention)
        ]
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
        self.epochs.append(self.simulate(theta, covariates, luck, number=number))
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


def plot_epochs(epochs: list[Epoch]) -> Any:
    """Draw each epoch's scores against the risk with the intervention and without.

    Returns
    -------
    matplotlib.figure.Figure
        A panel an epoch. On the diagonal a score is calibrated.
    """
    figure = new_figure(0.9 + 2.4 * len(epochs), 3.1)
    panels = figure.subplots(1, len(epochs), sharey=True, squeeze=False)[0]
    for axes, epoch in zip(panels, epochs, strict=True):
        axes.scatter(epoch.scores, epoch.risk_before, s=4, color="#c7c7c7", label="untreated")
        axes.scatter(epoch.scores, epoch.risk_after, s=4, color="#1f5a91", label="treated")
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        axes.set(title=f"epoch {epoch.number}", xlabel="score", xlim=(0, 1), ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("risk")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
        markerscale=3,
    )
    return figure
