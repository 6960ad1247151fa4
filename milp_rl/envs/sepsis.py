r"""A sepsis-like simulator in steps of four hours, whose counterfactuals are known.

An action is a level (none, low, high) of vasopressor and of intravenous fluid. Blood pressure p
falls with the severity z of the disease and rises with vasopressor, and with fluid while the
patient is not full; lactate l follows severity and low pressure and is washed out by fluid:

.. math:: p' &= p + 0.35 (82 - 14 z - p) + 5 v + 3 f (1 - w / 2)^+ + \epsilon, \\
          l' &= l + 0.3 (0.8 + 0.9 z + 0.07 (65 - p)^+ - l) - 0.6 f (1 - w / 2)^+
                + 0.15 v (p > 80) + \epsilon,

with w the volume given and not yet excreted. Severity heals faster while pressure and lactate are
in order. Death is the more likely the lower the pressure, the higher lactate and severity, and the
more the patient is overloaded with fluid or squeezed by vasopressor without need. An episode ends
with death (-15), or alive after 72 hours or once recovered (+15).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.envs.sampling import draw_each
from milp_rl.formulations.arrays import FloatArray

ACTIONS = FactoredActionSpace(
    {"vasopressor": ("none", "low", "high"), "fluid": ("none", "low", "high")}
)
OUTCOME = 15.0
HORIZON = 18
CORE = ("mean_blood_pressure", "lactate", "severity_score", "volume", "age", "comorbidity")
HISTORY = ("previous_vasopressor", "previous_fluid", "hours")
CORRELATES = (
    "systolic_blood_pressure", "diastolic_blood_pressure", "heart_rate", "shock_index",
    "respiratory_rate", "oxygen_saturation", "temperature", "urine_output", "creatinine", "urea",
    "bicarbonate", "base_excess", "arterial_ph", "paco2", "pao2", "inspired_oxygen", "white_cells",
    "platelets", "hemoglobin", "sodium", "potassium", "chloride", "glucose", "bilirubin", "alt",
    "ast", "inr", "albumin", "calcium", "magnesium", "coma_scale", "weight",
)  # fmt: skip
FEATURES = (*CORE, *HISTORY, *CORRELATES)
_DRIFT = 1.0


class SepsisCohort:
    """Many patients moved at once.

    Parameters
    ----------
    n
        Number of patients.
    rng
        Source of randomness.
    admission
        When each was admitted, in [0, 1] over the years that data were collected, shape (n,); usual
        care gives less fluid and earlier vasopressor as time goes by. By default drawn uniformly.

    Attributes
    ----------
    alive, done
        Whether each is alive, and whether the episode is over, shape (n,).
    """

    def __init__(
        self, n: int, rng: np.random.Generator, admission: FloatArray | None = None
    ) -> None:
        self._rng = rng
        self.n = n
        self.admission = np.sort(rng.random(n)) if admission is None else admission
        self.age = rng.normal(0.0, 1.0, n)
        self.comorbidity = rng.poisson(1.5, n).astype(float)
        self.severity = np.clip(
            rng.normal(1.3, 0.45, n) + 0.1 * self.age + 0.06 * self.comorbidity, 0.2, 3.0
        )
        self.pressure = 82 - 14 * self.severity + rng.normal(0, 5, n)
        self.lactate = np.maximum(0.8 + 0.9 * self.severity + rng.normal(0, 0.4, n), 0.4)
        self.volume = np.zeros(n)
        self.previous = np.zeros((n, 2), dtype=np.intp)
        self.step_number = 0
        self.alive = np.ones(n, dtype=bool)
        self.done = np.zeros(n, dtype=bool)

    def features(self) -> FloatArray:
        """Return what is observed, shape (n, 41); most of it follows the core with noise."""
        core = np.column_stack(
            [
                self.pressure,
                self.lactate,
                4 * self.severity + self._rng.normal(0, 0.5, self.n),
                self.volume,
                65 + 12 * self.age,
                self.comorbidity,
            ]
        )
        history = np.column_stack([self.previous, np.full(self.n, 4.0 * self.step_number)])
        standard = np.column_stack(
            [
                (self.pressure - 65) / 12,
                self.lactate - 2.0,
                self.severity - 1.2,
                self.volume - 1.0,
                self.age,
            ]
        )
        noise = self._rng.normal(0.0, 0.7, (self.n, len(CORRELATES)))
        return np.concatenate([core, history, standard @ _LOADINGS + noise], axis=1)

    def usual_care(self) -> FloatArray:
        """Return the probabilities of the nine actions under usual care, shape (n, 9)."""
        late = _DRIFT * self.admission
        low = (66 + 2 * late - self.pressure) / 7
        thirst = (self.lactate - 2.2) * 0.8 - 0.5 * self.volume + 0.4 - 0.8 * late
        levels = np.arange(3)
        vaso = levels * low[:, None] * 0.9 - 0.25 * levels**2
        fluid = levels * thirst[:, None] - 0.2 * levels**2
        joint = (vaso[:, :, None] + fluid[:, None, :]).reshape(self.n, 9)
        return np.asarray(0.94 * softmax(joint, axis=1) + 0.06 / 9)

    def step(self, actions: NDArray[np.intp]) -> FloatArray:
        """Give the treatments, numbers of :data:`ACTIONS`; return rewards, shape (n,).

        What happens to patients whose episode is over has no meaning.
        """
        r, rng = self._rng, self._rng
        v, f = (ACTIONS.levels[actions, i].astype(float) for i in (0, 1))
        room = np.maximum(1 - self.volume / 2, 0.0)
        squeezed = (v > 0) * (self.pressure > 80)
        low = np.maximum(65 - self.pressure, 0.0)
        pressure = (
            self.pressure
            + 0.35 * (82 - 14 * self.severity - self.pressure)
            + 5 * v
            + 3 * f * room
            + r.normal(0, 2.0, self.n)
        )
        lactate = (
            self.lactate
            + 0.3 * (0.8 + 0.9 * self.severity + 0.07 * low - self.lactate)
            - 0.6 * f * room
            + 0.15 * v * squeezed
            + r.normal(0, 0.15, self.n)
        )
        self.volume = np.clip(0.85 * self.volume + 0.45 * f, 0.0, 4.0)
        well = expit((pressure - 65) / 4) * expit((2.5 - lactate) / 0.7)
        overload = np.maximum(self.volume - 1.6, 0.0)
        self.severity = np.clip(
            self.severity - 0.10 * well + 0.035 + 0.03 * overload + rng.normal(0, 0.05, self.n),
            0.0,
            4.0,
        )
        self.pressure, self.lactate = pressure, np.clip(lactate, 0.3, 15.0)
        hazard = expit(
            -6.6
            + 1.3 * self.severity
            + 0.10 * np.maximum(65 - pressure, 0)
            + 0.5 * np.maximum(lactate - 2.0, 0)
            + 0.5 * overload
            + 0.5 * squeezed
        )
        self.previous = ACTIONS.levels[actions].copy()
        self.step_number += 1
        died = ~self.done & (rng.random(self.n) < hazard)
        recovered = ~self.done & ~died & (self.severity < 0.35)
        out = ~self.done & ~died & (recovered | (self.step_number >= HORIZON))
        self.alive &= ~died
        self.done |= died | out
        return np.where(died, -OUTCOME, np.where(out, OUTCOME, 0.0))


class Sepsis(gym.Env[NDArray[np.float32], Any]):
    """One patient, as a Gymnasium environment.

    A step is four hours; the model is at the top of the module.

    Action Space
    ------------
    ``Discrete(9)``: 3 v + f, with v the level of vasopressor and f that of intravenous fluid, each
    0 (none), 1 (low) or 2 (high). Every action is allowed in every state.

    Observation Space
    -----------------
    ``Box(-inf, inf, (41,), float32)``, named by :data:`FEATURES`:

    - 0: mean blood pressure p, on the scale of mmHg;
    - 1: lactate l, on the scale of mmol/l, between 0.3 and 15;
    - 2: severity score, 4 z plus normal noise of standard deviation 0.5;
    - 3: volume w given and not yet excreted, in [0, 4];
    - 4: age in years;
    - 5: number of comorbidities;
    - 6, 7: levels of vasopressor and fluid in the step before, 0 to 2;
    - 8: hours since the start, 0 to 72;
    - 9 to 40: laboratory values and vital signs, standardized, that depend linearly on pressure,
      lactate, severity, volume and age, with normal noise of standard deviation 0.7.

    Severity z itself, in [0, 4], is not observed.

    Rewards
    -------
    0 in every step but the last: -15 if the patient dies, +15 if not.

    Starting State
    --------------
    A patient drawn anew: age is normal (mean 65, standard deviation 12 years), comorbidities are
    Poisson(1.5), severity is normal around 1.3, higher with age and comorbidities, in [0.2, 3];
    pressure and lactate follow severity with noise; nothing was given before. There are no options
    of :meth:`reset`.

    Episode End
    -----------
    Terminated by death, by recovery (severity below 0.35), or alive after 18 steps (72 hours);
    never truncated. ``info["alive"]`` of :meth:`step` says whether the patient lives.

    Arguments
    ---------
    None. ``import milp_rl.envs`` registers the environment.

    ```python
    gymnasium.make("milp_rl/Sepsis-v0")
    ```
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(FEATURES),), np.float32)
        self.action_space = gym.spaces.Discrete(ACTIONS.n_actions)
        self._cohort: SepsisCohort | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Admit a patient.

        Raises
        ------
        ValueError
            If an option is given; there are none.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}; there are none")
        self._cohort = SepsisCohort(1, self.np_random)
        return self._cohort.features()[0].astype(np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Treat for four hours.

        Raises
        ------
        ValueError
            If the action is none of the nine.
        gymnasium.error.ResetNeeded
            If the episode is over or has not begun.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"an action is a number 0..8, got {action!r}")
        cohort = self._cohort
        if cohort is None or cohort.done[0]:
            raise gym.error.ResetNeeded("the episode is over or has not begun; call reset() first")
        reward = float(cohort.step(np.array([int(action)]))[0])
        features = cohort.features()[0].astype(np.float32)
        return features, reward, bool(cohort.done[0]), False, {"alive": bool(cohort.alive[0])}


def true_value(
    act: Any, n: int = 2000, *, seed: int = 0, discount: float = 0.99, admission: ArrayLike = 1.0
) -> tuple[float, float, float]:
    """Play a policy in the simulator.

    Parameters
    ----------
    act
        Takes features, shape (n, 41), to probabilities of actions, shape (n, 9).
    n
        Patients.
    seed
        Seed of everything.
    discount
        Discount factor of rewards.
    admission
        When the patients are admitted, in [0, 1].

    Returns
    -------
    tuple of float
        Mean discounted return, its standard error, and the share of patients who survive.
    """
    rng = np.random.default_rng([seed, 21])
    when = np.broadcast_to(np.asarray(admission, dtype=np.float64), (n,))
    cohort = SepsisCohort(n, rng, when)
    returns, factor = np.zeros(n), 1.0
    while not cohort.done.all():
        probabilities = cohort.usual_care() if act is None else act(cohort.features())
        returns += factor * cohort.step(draw_each(probabilities, rng))
        factor *= discount
    error = returns.std(ddof=1) / np.sqrt(n)
    return float(returns.mean()), float(error), float(cohort.alive.mean())


def _loadings() -> FloatArray:
    """Return how the correlates follow pressure, lactate, severity, volume and age."""
    rng = np.random.default_rng(41)
    drawn = rng.normal(0.0, 0.5, (5, len(CORRELATES))) * (rng.random((5, len(CORRELATES))) < 0.4)
    drawn[0, :2] = 0.9  # systolic and diastolic pressure
    return np.asarray(drawn)


_LOADINGS = _loadings()
