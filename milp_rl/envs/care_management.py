r"""A simulator of weekly care management, whose counterfactuals are known.

After Basu, "Factored offline reinforcement learning for personalized Medicaid care management"
(2026): each week one of 97 valid combinations of modality, provider, goal and urgency is chosen for
a patient. The claims behind that work cannot be shared; this model has their structure, not their
numbers. A patient is five features in [0, 1] - clinical risk, behavioral need, engagement,
adherence and weeks since contact (of at most 8) - and an index of social needs that does not
change. An action reaches the patient with a probability that depends on modality, engagement and
social needs, and works by how well the provider suits the goal and how large the need is:

.. math:: \text{effect} = \text{contact} \cdot \text{intensity}_{modality} \cdot
          \text{skill}_{provider, goal} \cdot \text{need}_{goal} \cdot \text{urgency}.

All outcome probabilities are linear in the contact, so that expected rewards are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtri, softmax

from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.envs.known_model import KnownModelEnv, StateArray
from milp_rl.formulations.arrays import FloatArray

FEATURES = (
    "clinical_risk",
    "behavioral_need",
    "engagement",
    "adherence",
    "weeks_since_contact",
)
SOCIAL_NEED = "social_need"
FACTORS = {
    "modality": ("Phone", "Text/SMS", "Video", "Home Visit"),
    "provider": ("RN", "Social Worker", "Care Coordinator", "CHW", "MD"),
    "goal": ("Chronic Disease Management", "Care Coordination", "Behavioral Health", "SDoH"),
    "urgency": ("Routine", "Semi-urgent", "Urgent"),
}
OUTCOMES = (
    "acute_event",
    "contact_success",
    "appointment_kept",
    "pcp_visit",
    "medication_fill",
    "lab_completed",
)
N_VALID = 97
MOST_WEEKS = 8

_INTENSITY = np.array([0.5, 0.2, 0.6, 1.0])
_REACH = np.array([0.3, 0.9, 0.0, 0.6])
_SKILL = np.array(  # providers by goals
    [
        [1.0, 0.6, 0.4, 0.2],
        [0.2, 0.6, 0.8, 1.0],
        [0.4, 1.0, 0.4, 0.6],
        [0.4, 0.6, 0.3, 0.9],
        [0.9, 0.4, 0.8, 0.1],
    ]
)
_URGENCY = np.array([0.8, 1.0, 1.2])
_LUCK = 10


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the three parts of the reward.

    Parameters
    ----------
    primary
        Weight of an acute event (emergency visit or hospitalization), which counts -1.
    engagement
        Weight of the mean of contact success and kept appointment.
    intermediate
        Weight of the mean of primary-care visit, medication fill and laboratory test.
    """

    primary: float = 1.0
    engagement: float = 0.3
    intermediate: float = 0.5

    def of(self, outcomes: ArrayLike) -> FloatArray:
        """Return rewards of outcomes (or of their probabilities), shape (..., 6) to (...)."""
        o = np.asarray(outcomes, dtype=np.float64)
        return np.asarray(
            -self.primary * o[..., 0]
            + self.engagement * o[..., 1:3].mean(axis=-1)
            + self.intermediate * o[..., 3:].mean(axis=-1)
        )


@lru_cache(maxsize=1)
def care_actions() -> FactoredActionSpace:
    """Return the 240 combinations, of which the 97 most plausible are valid.

    Plausible is a provider who suits the goal, an urgency that suits the modality.
    """
    modality, provider, goal, urgency = np.indices([len(v) for v in FACTORS.values()])
    plausible = _SKILL[provider, goal] + 0.25 * np.where(
        urgency == 2, _INTENSITY[modality], 1 - _INTENSITY[modality]
    )
    plausible = plausible - 0.4 * ((modality == 3) & (provider == 4))  # physicians at home
    order = np.argsort(-plausible, axis=None, kind="stable")
    valid = np.zeros(plausible.size, dtype=bool)
    valid[order[:N_VALID]] = True
    return FactoredActionSpace(FACTORS, valid.reshape(plausible.shape))


class CareManagement(KnownModelEnv):
    """One patient, one valid action per week, as a Gymnasium environment.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.FactoredValidity`: a binary
    vector, int8, shape (16,), one-hot in each of its four parts, which are 4 modalities, 5
    providers, 4 goals and 3 urgencies in the order of :data:`FACTORS`. Of the 240 combinations 97
    are valid.

    Observation Space
    -----------------
    ``Box(0, 1, (6,), float32)``: clinical risk, behavioral need, engagement, adherence, weeks since
    the last contact (in units of 8 weeks, at most 1), and the index of social needs, which stays
    the same in an episode.

    Rewards
    -------
    Of the six outcomes of the week, zeros and ones: -1 for an acute event, plus 0.3 times the mean
    of contact success and kept appointment, plus 0.5 times the mean of primary-care visit,
    medication fill and laboratory test; so between -1 and 0.8. ``weights`` changes the three
    factors.

    Starting State
    --------------
    A patient drawn by :meth:`start_states`: social needs s are Beta(2.5, 3.5); risk is Beta(2, 4)
    and behavioral need Beta(2, 5), both plus 0.2 (s - 0.4); engagement is Beta(4, 4) minus
    0.3 (s - 0.4); adherence is the mean of engagement and a uniform number; the last contact was 0
    to 4 weeks ago. All are clipped to [0, 1]. Or the state given as ``options={"state": ...}`` to
    :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` weeks, 52 by default; never terminated.

    Arguments
    ---------
    ``import milp_rl.envs`` registers the environment.

    ```python
    gymnasium.make("milp_rl/CareManagement-v0", horizon=26, weights=RewardWeights(primary=2.0))
    ```

    Parameters
    ----------
    horizon
        Weeks per episode, at least 1.
    weights
        Weights of the reward.
    """

    def __init__(self, horizon: int = 52, weights: RewardWeights | None = None) -> None:
        self.actions = care_actions()
        self.weights = RewardWeights() if weights is None else weights
        states = gym.spaces.Box(0.0, 1.0, (len(FEATURES) + 1,), np.float32)
        super().__init__(self.actions.block(), horizon, states, _LUCK)
        self.variables = (*FEATURES, SOCIAL_NEED)
        self.interventions = tuple(
            f"{factor}: {level}" for factor, levels in FACTORS.items() for level in levels
        )

    def check_states(self, states: ArrayLike) -> FloatArray:
        """Return ``states``, shape (..., 6), as float64, or raise ``ValueError``."""
        values = np.asarray(states, dtype=np.float64)
        if values.shape[-1:] != (self.state_dim,):
            raise ValueError(f"a state has shape (..., {self.state_dim}), got {values.shape}")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("features lie in [0, 1]")
        return values

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return the expected reward of one week, shape (...)."""
        s, levels = self.check_states(state), _levels(action)
        return self.weights.of(_outcome_probabilities(s, levels, _reach(s, levels)))

    def expected_rewards(self, states: ArrayLike) -> FloatArray:
        """Return the expected reward of every valid action, shape (..., 97)."""
        s = self.check_states(states)[..., None, :]
        levels = tuple(self.actions.levels.T)
        return self.weights.of(_outcome_probabilities(s, levels, _reach(s, levels)))

    def behaviour(self, states: ArrayLike) -> FloatArray:
        """Return the probabilities of the 97 actions under usual care, shape (..., 97).

        Sicker patients get more intensive care; goals follow needs. It looks at the five features
        only, and every valid action has at least a probability of 0.05 / 97.
        """
        s = self.check_states(states)
        risk, behavioral, engagement, adherence, weeks = np.moveaxis(s, -1, 0)[:5, ..., None]
        modality, provider, goal, urgency = self.actions.levels.T
        logits = 3.0 * (risk - 0.35) * (_INTENSITY[modality] - 0.5)
        logits = logits + 2.5 * (risk - 0.35) * (urgency - 1)
        logits = logits + 1.5 * (risk - 0.3) * (provider == 4)
        logits = logits + 1.5 * (1 - adherence) * (goal == 0) + 2.0 * behavioral * (goal == 2)
        logits = logits + 0.8 * weeks * ((goal == 1) + (modality == 3))
        logits = logits + 0.8 * engagement * (modality == 1)
        logits = logits + _SKILL[provider, goal]
        return np.asarray(0.95 * softmax(logits, axis=-1) + 0.05 / N_VALID)

    def transition(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, FloatArray]:
        """Move a week."""
        following, outcomes = self.outcomes(states, _levels(actions), uniforms)
        return following, self.weights.of(outcomes)

    def outcomes(
        self, states: ArrayLike, levels: tuple[NDArray[Any], ...], uniforms: FloatArray
    ) -> tuple[StateArray, NDArray[np.int8]]:
        """Move a week, given the level of each factor.

        Returns
        -------
        tuple of numpy.ndarray
            Next states, float32, and the six outcomes, zeros and ones, shape (..., 6).
        """
        s = self.check_states(states)
        contact = (uniforms[..., 0] < _reach(s, levels)).astype(np.float64)
        outcomes = (uniforms[..., :6] < _outcome_probabilities(s, levels, contact)).astype(np.int8)
        outcomes[..., 1] = contact
        risk, behavioral, engagement, adherence, weeks, social = np.moveaxis(s, -1, 0)
        goal, urgency = levels[2], levels[3]
        effect = contact * _effect_of_contact(s, levels)
        noise = 0.03 * ndtri(np.clip(uniforms[..., 6:], 1e-12, 1 - 1e-12))
        acute = outcomes[..., 0]
        calm = 0.02 * (urgency == 2) * (risk < 0.3)  # urgency without need tires
        moved = [
            risk
            + 0.04 * (0.2 + 0.3 * social - risk)
            + 0.05 * (0.5 - adherence)
            - 0.1 * effect
            + 0.1 * acute
            + noise[..., 0],
            behavioral
            + 0.05 * (0.15 + 0.3 * social - behavioral)
            - 0.25 * effect * (goal == 2)
            + noise[..., 1],
            engagement
            + 0.08 * (contact - engagement)
            + 0.05 * (0.5 - 0.3 * social - engagement)
            + 0.1 * effect * (goal == 3)
            - calm
            + noise[..., 2],
            adherence
            + 0.06 * (engagement - adherence)
            + 0.2 * effect * (goal == 0)
            + noise[..., 3],
            np.where(contact == 1, 0.0, np.minimum(weeks + 1 / MOST_WEEKS, 1.0)),
            np.broadcast_to(social, effect.shape),
        ]
        return np.clip(np.stack(moved, axis=-1), 0.0, 1.0).astype(np.float32), outcomes

    def start_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Draw patients of the whole population."""
        return self.enrol(rng.beta(2.5, 3.5, n), rng)

    def enrol(self, social: ArrayLike, rng: np.random.Generator) -> StateArray:
        """Draw the first states of patients with given social needs, shape (n,)."""
        s = np.asarray(social, dtype=np.float64)
        n = len(s)
        risk = np.clip(rng.beta(2, 4, n) + 0.2 * (s - 0.4), 0, 1)
        behavioral = np.clip(rng.beta(2, 5, n) + 0.2 * (s - 0.4), 0, 1)
        engagement = np.clip(rng.beta(4, 4, n) - 0.3 * (s - 0.4), 0, 1)
        adherence = np.clip(0.5 * engagement + 0.5 * rng.random(n), 0, 1)
        weeks = rng.integers(0, 5, n) / MOST_WEEKS
        return np.stack([risk, behavioral, engagement, adherence, weeks, s], axis=1).astype(
            np.float32
        )

    def informative_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return patients with one need each, and ``n`` random ones."""
        needs = np.eye(self.state_dim)
        return np.concatenate([needs, rng.random((n, self.state_dim))]).astype(np.float32)


def _levels(action: ArrayLike) -> tuple[NDArray[Any], ...]:
    """Return the level of each factor of one-hot actions, shape (..., 16)."""
    a = np.asarray(action)
    ends = np.cumsum([len(levels) for levels in FACTORS.values()])
    if a.shape[-1:] != (ends[-1],):
        raise ValueError(f"an action has shape (..., {ends[-1]}), got {a.shape}")
    return tuple(part.argmax(axis=-1) for part in np.split(a, ends[:-1], axis=-1))


def _reach(s: FloatArray, levels: tuple[NDArray[Any], ...]) -> FloatArray:
    """Return the probability that a contact succeeds."""
    modality, provider = levels[0], levels[1]
    remote = (modality == 1) | (modality == 2)
    return np.asarray(
        expit(
            _REACH[modality]
            + 2.5 * (s[..., 2] - 0.5)
            - 1.2 * s[..., 5] * remote
            + 0.5 * (provider == 3)
        )
    )


def _effect_of_contact(s: FloatArray, levels: tuple[NDArray[Any], ...]) -> FloatArray:
    modality, provider, goal, urgency = levels
    needs = np.stack(
        [s[..., 0] * (1.3 - s[..., 3]), 0.15 + 0.3 * s[..., 4], s[..., 1], s[..., 5]], axis=-1
    )
    shape = np.broadcast_shapes(needs.shape[:-1], np.shape(goal))
    need = np.take_along_axis(
        np.broadcast_to(needs, (*shape, 4)), np.broadcast_to(goal, shape)[..., None], axis=-1
    )[..., 0]
    urgent = np.where(s[..., 0] > 0.3, _URGENCY[urgency], 1.0)
    return np.asarray(_INTENSITY[modality] * _SKILL[provider, goal] * need * urgent)


def _outcome_probabilities(
    s: FloatArray, levels: tuple[NDArray[Any], ...], contact: FloatArray
) -> FloatArray:
    """Return the probabilities of the outcomes, linear in the contact, shape (..., 6)."""
    goal = levels[2]
    effect = contact * _effect_of_contact(s, levels)
    risk, engagement, adherence = s[..., 0], s[..., 2], s[..., 3]
    acute = (0.001 + 0.03 * risk**2 * (1.2 - adherence)) * (1.0 - 0.6 * effect)
    parts = [
        acute,
        contact,
        0.1 * engagement + 0.15 * effect,
        0.03 + 0.25 * effect * (goal == 1) + 0.05 * effect,
        0.05 + 0.15 * adherence + 0.25 * effect * (goal == 0),
        0.02 + 0.15 * effect * ((goal == 0) | (goal == 1)),
    ]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)
