"""The parameters of the learner, checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from milp_rl.formulations.names import Formulation, Strength
from milp_rl.solvers.names import SolverName


@dataclass(frozen=True)
class DQNConfig:
    """Parameters of :class:`milp_rl.dqn.DQNAgent`.

    The defaults learn well on restless bandits; :meth:`paper` has what Xu, Wilder, Khalil and
    Tambe (ICLR 2025) published.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    discount
        Discount factor gamma, in [0, 1).
    episodes
        Training episodes.
    learning_rate, learning_rate_decay, weight_decay
        AdamW's step size, the factor on it after every episode, and its decay of the weights
        (not of the biases). Decay keeps pre-activations small, so that bounds prove more neurons
        on or off and the argmaxes are solved faster.
    batch_size
        Transitions in one update.
    updates_per_step
        Updates after each step of the environment.
    clip_value
        Every entry of a gradient is clipped to plus or minus this.
    buffer_size
        Transitions kept for replay.
    priority_exponent, importance_exponent
        Prioritized replay's alpha and beta, in [0, 1].
    epsilon_start, epsilon_end, epsilon_decay
        The probability of a random action after t steps is
        ``end + (start - end) * exp(-t / decay)``.
    target_update
        ``"hard"``: copy the weights to the target network every ``sync_every`` steps; the
        argmaxes found in between are reused. ``"soft"``: move the target's weights by ``tau``
        towards them after every step; nothing found for older weights is reused.
    sync_every, tau
        Steps of the environment between hard updates; rate of soft updates, in (0, 1].
    level_targets
        At each hard update, shift the output bias by the mean temporal difference. The level of
        the values, which rises by about one reward an update and has no influence on the policy,
        then need not be learnt by small gradient steps; what is left to learn is the difference
        between states and actions.
    double
        Choose the next action by the learning network and value it by the target network (double
        DQN). No argmax can be reused then: one is solved for every sampled transition.
    n_step
        Rewards summed up in a target before the value of the state reached is added. More than
        one propagates rewards faster, but values the exploring policy's steps.
    expected_rewards
        Learn from ``env.expected_reward`` rather than sampled rewards where it exists.
    random_steps
        Steps of random feasible actions played before anything else. They are put into the replay
        buffer, and pretraining fits their rewards instead of those of the model: what a learner
        does that knows the environment by its samples alone.
    pretrain_epochs, pretrain_batch_size
        Passes over the one-step data (0: no pretraining) and samples in an update.
    pretrain_learning_rate, pretrain_learning_rate_decay
        AdamW's step size and the factor on it after every epoch.
    pretrain_states, pretrain_actions
        Random states, and random feasible actions a state, in the one-step data.
    pretrain_replay
        One-step samples with feasible actions put into the replay buffer before the first
        episode. They are spread over states that episodes seldom reach, which Q-learning needs to
        value decisions that have not been kept up yet.
    argmax
        ``"exact"``, or a heuristic for every best action, in episodes and in targets, without a
        solver: ``"greedy"`` builds it on the network (iterative DQN), for binary actions;
        ``"gradient"`` and ``"cross_entropy"`` search a box of continuous ones
        (:mod:`milp_rl.heuristics.continuous`).
    loss, hinge_weight
        ``"huber"``, of the temporal differences; or ``"hinge"``: the values, plus the weight times
        the squares of what they are below their targets (the linear program of Q-learning with a
        penalty, as in CAQL, Ryu et al., ICLR 2020).
    dual_filtering
        With the hinge loss, do not solve the argmax in a next state where the bound of the target
        network there shows that the value is not below its target (CAQL).
    dynamic_tolerance, dynamic_tolerance_decay
        The argmaxes' gap is this factor times the mean temporal difference relative to the mean
        value, times the decay to the power of the episode, rounded down to a power of two, but at
        least ``gap`` (CAQL); ``None``: ``gap`` always.
    cluster_radius
        Next states of a batch this close (Euclidean) to one before them take over its action, which
        the target network values in their own state (after CAQL); ``None``: each is solved for.
    solver, formulation, bounds, gap, time_limit
        Passed to :class:`milp_rl.argmax_solver.ArgmaxSolver`. A time limit makes results depend on
        the speed of the machine, so that runs are no longer reproducible.
    early_gap
        Gap in the first half of the episodes, while values are rough; ``None``: the same.
    cache_size
        Argmaxes remembered for the current weights.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    hidden: tuple[int, ...] = (16, 32)
    discount: float = 0.99
    episodes: int = 100
    learning_rate: float = 2.5e-4
    learning_rate_decay: float = 1.0
    weight_decay: float = 0.3
    batch_size: int = 32
    updates_per_step: int = 6
    clip_value: float = 5.0
    buffer_size: int = 10_000
    priority_exponent: float = 0.6
    importance_exponent: float = 0.4
    epsilon_start: float = 0.9
    epsilon_end: float = 0.05
    epsilon_decay: float = 1000.0
    target_update: Literal["hard", "soft"] = "hard"
    sync_every: int = 300
    tau: float = 0.005
    level_targets: bool = True
    double: bool = False
    n_step: int = 1
    expected_rewards: bool = True
    random_steps: int = 0
    pretrain_epochs: int = 300
    pretrain_batch_size: int = 512
    pretrain_learning_rate: float = 3e-3
    pretrain_learning_rate_decay: float = 0.985
    pretrain_states: int = 500
    pretrain_actions: int = 10
    pretrain_replay: int = 5000
    argmax: Literal["exact", "greedy", "gradient", "cross_entropy"] = "exact"
    loss: Literal["huber", "hinge"] = "huber"
    hinge_weight: float = 10.0
    dual_filtering: bool = False
    dynamic_tolerance: float | None = None
    dynamic_tolerance_decay: float = 0.95
    cluster_radius: float | None = None
    solver: SolverName = "auto"
    formulation: Formulation = "bigm"
    bounds: Strength = "linear"
    gap: float = 0.0
    early_gap: float | None = None
    time_limit: float | None = None
    cache_size: int = 100_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        widths = self.hidden and all(_is_count(width, 1) for width in self.hidden)
        if not widths:
            raise ValueError(f"hidden must be one or more widths of at least 1, got {self.hidden}")
        for wanted, (valid, names) in _RANGES.items():
            for name in names.split():
                value = getattr(self, name)
                if not valid(value):
                    raise ValueError(f"{name} must be {wanted}, got {value!r}")
        if self.dual_filtering and (self.loss != "hinge" or self.argmax != "exact"):
            raise ValueError("dual_filtering needs loss='hinge' and argmax='exact'")

    @classmethod
    def paper(cls, **changes: Any) -> DQNConfig:
        """Return the published parameters; what the paper leaves open is as in its authors' code.

        With so small a ``tau`` the target network stays close to the pretrained one: values look
        one step beyond the one-step reward.

        Parameters
        ----------
        **changes
            Parameters to set otherwise.
        """
        published: dict[str, Any] = {
            "learning_rate_decay": 0.9,
            "weight_decay": 0.01,
            "updates_per_step": 1,
            "target_update": "soft",
            "tau": 1e-6,
            "level_targets": False,
            "pretrain_batch_size": 32,
            "pretrain_learning_rate": 2.5e-4,
            "pretrain_learning_rate_decay": 0.9,
            "pretrain_states": 1000,
            "pretrain_replay": 1000,
            "gap": 0.02,
        }
        return cls(**{**published, **changes})


def _is_count(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "an integer of at least 1": (
        lambda v: _is_count(v, 1),
        "batch_size updates_per_step buffer_size sync_every n_step pretrain_batch_size cache_size",
    ),
    "an integer of at least 0": (
        lambda v: _is_count(v, 0),
        "episodes random_steps pretrain_epochs pretrain_states pretrain_actions pretrain_replay",
    ),
    "a positive number": (
        lambda v: 0 < v < math.inf,
        "learning_rate pretrain_learning_rate clip_value epsilon_decay hinge_weight",
    ),
    "in (0, 1]": (
        lambda v: 0 < v <= 1,
        "learning_rate_decay pretrain_learning_rate_decay tau dynamic_tolerance_decay",
    ),
    "in [0, 1]": (
        lambda v: 0 <= v <= 1,
        "priority_exponent importance_exponent epsilon_start epsilon_end",
    ),
    "in [0, 1)": (lambda v: 0 <= v < 1, "discount"),
    "a nonnegative number": (lambda v: 0 <= v < math.inf, "weight_decay gap"),
    "a nonnegative number or None": (lambda v: v is None or 0 <= v < math.inf, "early_gap"),
    "a positive number or None": (
        lambda v: v is None or 0 < v < math.inf,
        "time_limit dynamic_tolerance cluster_radius",
    ),
    "'exact', 'greedy', 'gradient' or 'cross_entropy'": (
        lambda v: v in ("exact", "greedy", "gradient", "cross_entropy"),
        "argmax",
    ),
    "'huber' or 'hinge'": (lambda v: v in ("huber", "hinge"), "loss"),
    "true or false": (lambda v: isinstance(v, bool), "dual_filtering"),
    "'hard' or 'soft'": (lambda v: v in ("hard", "soft"), "target_update"),
}
