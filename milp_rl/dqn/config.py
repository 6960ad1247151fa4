"""The parameters of the learner, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from milp_rl.formulations.names import Formulation, Strength
from milp_rl.solvers.names import Engine, SolverName


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Parameters of :class:`milp_rl.dqn.DQNAgent`, in the order of :mod:`milp_rl.dqn.learner`.

    The defaults are for environments of any scale, with or without a model; :meth:`restless` is for
    the published network on restless bandits, and :meth:`paper` has what Xu, Wilder, Khalil and
    Tambe (ICLR 2025) published. Some parameters are those of CAQL: Ryu, Chow, Anderson,
    Tjandraatmadja and Boutilier, "CAQL: Continuous action Q-learning", ICLR 2020.

    >>> from milp_rl.dqn import DQNConfig
    >>> DQNConfig(episodes=50, double=True).n_step
    1

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    # The problem ------------------------------------------------------------------------------

    architecture: Literal["auto", "concat", "arms", "equivariant"] = "auto"
    """Which Q-network is trained, where none is given.

    ``"concat"``: :class:`milp_rl.QNetwork`, ReLU layers on [action, state], as published.
    ``"arms"``: :class:`milp_rl.ArmQNetwork`, any depth in the state and a small argmax; its arms
    are those that the environment declares (:class:`milp_rl.envs.arms.Arms`), or else the action
    variables, which see the whole state. ``"equivariant"``: the same with arms that differ by their
    features alone, so that it can be used for other numbers of arms. ``"auto"``: ``"arms"``.
    """

    hidden: tuple[int, ...] = (16, 32)
    """Widths of the hidden layers of ``"concat"``, one or more, each at least 1."""

    encoder: tuple[int, ...] = (64, 64)
    """Widths of the encoder of ``"arms"``, one or more, each at least 1."""

    head: tuple[int, ...] = (32,)
    """Widths of its ReLU layers that follow the action, one or two, each at least 1."""

    critics: int = 1
    """Q-networks trained side by side, at least 1."""

    critics_reduce: Literal["min", "mean"] = "min"
    """What several critics are worth: the least of their values (clipped double), or the mean."""

    normalise: bool = True
    """Give the network states, actions and values of a size near one.

    States and values go by the data that training begins with, actions by their bounds. The values
    stay in units of the rewards; losses and gradients then do not depend on them. A network of your
    own is left as it is.
    """

    discount: float = 0.99
    """Discount factor gamma, in [0, 1)."""

    episodes: int = 100
    """Training episodes, at least 0."""

    # Acting: exploration ----------------------------------------------------------------------

    epsilon_start: float = 0.3
    """Probability of a random action in the first step, in [0, 1]."""

    epsilon_end: float = 0.02
    """What that probability falls to, in [0, 1]."""

    epsilon_decay: float = 500.0
    """Steps in which it falls, positive.

    After t steps, the probability is ``end + (start - end) * exp(-t / decay)``.
    """

    # Remembering: replay ----------------------------------------------------------------------

    expected_rewards: bool = True
    """Learn from ``env.expected_reward`` rather than sampled rewards, where it exists."""

    n_step: int = 1
    """Rewards summed up in a target before the value of the state reached is added, at least 1.

    More than one propagates rewards faster, but values the exploring policy's steps.
    """

    buffer_size: int = 10_000
    """Transitions kept for replay, at least 1."""

    priority_exponent: float = 0.6
    """Prioritized replay's alpha, in [0, 1]; 0: all transitions are drawn alike."""

    importance_exponent: float = 0.4
    """Prioritized replay's beta, in [0, 1]; 1: importance weights undo the priorities in full."""

    # Acting: the policy -----------------------------------------------------------------------

    average_decay: float = 0.999
    """Factor on the averaged weights in each step of the environment, in [0, 1).

    The policy is that of the averaged weights, a mean over about ``1 / (1 - average_decay)`` steps,
    which hard updates copy to the target network, too; exploration is by the last weights. 0: all
    is by these. Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
    J. Control Optim. 30 (1992).
    """

    # Targets ----------------------------------------------------------------------------------

    target_update: Literal["hard", "soft"] = "hard"
    """How the target network follows the network that learns.

    ``"hard"``: the averaged weights are copied every ``sync_every`` steps; the argmaxes found in
    between are reused. ``"soft"``: the target's weights move by ``tau`` towards the last ones after
    every step; nothing found for older weights is reused.
    """

    sync_every: int = 300
    """Steps of the environment between hard updates, at least 1."""

    tau: float = 0.005
    """Rate of soft updates, in (0, 1]."""

    level_targets: bool = True
    """At each hard update with the Huber loss, shift the output bias by the mean difference.

    The level of the values, which rises by about one reward per update (of averaged weights less,
    as they follow) and has no influence on the policy unless episodes terminate, then need not be
    learnt by small gradient steps; what is left to learn is the difference between states and
    actions. The mean is of transitions drawn by their priorities. The hinge loss does not bring
    the differences to zero, and values shifted by them would rise or fall for ever.
    """

    double: bool = False
    """Choose next actions by the network that learns, value them by the target (double DQN).

    No argmax can be reused then: one is solved for every sampled transition.
    """

    dual_filtering: bool = False
    """Solve no argmax whose target is shown to be reached anyway (CAQL).

    That is where a bound on the target network in the next state shows that the value is not below
    its target. Needs the hinge loss and exact argmaxes.
    """

    cluster_radius: float | None = None
    """Euclidean distance within which next states share an argmax (after CAQL), positive.

    Next states of a batch at most so far from one before them take over its action, which the
    target network values in their own state. ``None``: each is solved for.
    """

    # Update: loss and optimizer ---------------------------------------------------------------

    batch_size: int = 64
    """Transitions in one update, at least 1."""

    updates_per_step: int = 2
    """Updates after each step of the environment, at least 1."""

    loss: Literal["huber", "hinge"] = "huber"
    """What is descended.

    ``"huber"``, of the temporal differences; or ``"hinge"``: the values, plus ``hinge_weight``
    times the squares of what they are below their targets (the linear program of Q-learning with a
    penalty, as in CAQL).
    """

    hinge_weight: float = 10.0
    """Weight of the penalty in the hinge loss, positive."""

    learning_rate: float = 3e-4
    """AdamW's step size, positive."""

    learning_rate_decay: float = 1.0
    """Factor on the step size after every episode, in (0, 1]."""

    weight_decay: float = 0.0
    """AdamW's decay of the weights (not of the biases), at least 0.

    It keeps pre-activations small, so that bounds prove more neurons on or off and the argmaxes of
    ``"concat"`` are solved faster; but small effects of actions are lost.
    """

    clip_value: float = 5.0
    """Every entry of a gradient is clipped to plus or minus this, positive."""

    # Argmax: solver and gap -------------------------------------------------------------------

    argmax: Literal["exact", "greedy", "gradient", "cross_entropy"] = "exact"
    """What finds best actions, in episodes and in targets.

    ``"exact"``: a solver. Heuristics, without proof: ``"greedy"`` builds an action on the network
    (iterative DQN), for binary actions; ``"cross_entropy"`` draws actions and refits to the best
    (:mod:`milp_rl.heuristics.cross_entropy`), in a box of continuous ones as
    :mod:`milp_rl.heuristics.continuous`; ``"gradient"`` climbs in such a box.
    """

    solver: SolverName = "auto"
    """Solver of exact argmaxes, as for :class:`milp_rl.argmax_solver.ArgmaxSolver`."""

    engine: Engine = "compact"
    """What writes the model of a MILP solver, as there; ``"pyomo"`` needs ``"concat"`` networks."""

    formulation: Formulation = "bigm"
    """How a MILP solver is given the network, as there."""

    bounds: Strength = "linear"
    """Which bounds on its neurons, as there."""

    gap: float = 0.0
    """Relative gap of exact argmaxes, at least 0."""

    early_gap: float | None = None
    """Gap in the first half of the episodes, while values are rough; ``None``: the same."""

    dynamic_tolerance: float | None = None
    """Factor on the relative error of the values that the gap may be (CAQL), positive.

    The gap is then this times the mean temporal difference relative to the mean value, times
    ``dynamic_tolerance_decay`` to the power of the episode, rounded down to a power of two, but at
    least ``gap``. ``None``: ``gap`` always.
    """

    dynamic_tolerance_decay: float = 0.95
    """Factor on the dynamic tolerance after every episode, in (0, 1]."""

    time_limit: float | None = None
    """Seconds per argmax, positive; ``None``: no limit.

    A limit makes results depend on the speed of the machine, so that runs are no longer
    reproducible.
    """

    audit: float = 0.0
    """Share of the solved argmaxes that a proof is made of and checked, in [0, 1].

    One that cannot be proven is logged as an error, with its state. Answers do not depend on it.
    A proof may take longer than the solve; it has the time limit to itself.
    """

    cache_size: int = 100_000
    """Argmaxes remembered for the current weights, at least 1."""

    # Pretraining ------------------------------------------------------------------------------

    random_steps: int | None = None
    """Steps of random feasible actions played before anything else, at least 0.

    ``None``: 1,000 where there is pretraining, but the environment has no model; else none. They
    are put into the replay buffer, and pretraining fits their rewards, not those of the model:
    what a learner does that knows the environment by its samples alone.
    """

    pretrain_epochs: int = 20
    """Passes over the one-step data; 0: no pretraining."""

    pretrain_batch_size: int = 64
    """Samples in one update of pretraining, at least 1."""

    pretrain_learning_rate: float = 1e-3
    """AdamW's step size in pretraining, positive."""

    pretrain_learning_rate_decay: float = 0.95
    """Factor on that step size after every epoch, in (0, 1]."""

    pretrain_states: int = 500
    """Random states in the one-step data, at least 0."""

    pretrain_actions: int = 10
    """Random feasible actions per state in the one-step data, at least 0."""

    pretrain_replay: int = 5000
    """One-step samples with feasible actions put into the replay buffer before the first episode.

    They are spread over states that episodes seldom reach, which Q-learning needs to value
    decisions that have not been kept up yet.
    """

    def __post_init__(self) -> None:
        for name in ("hidden", "encoder", "head"):
            given = getattr(self, name)
            widths = tuple(given) if isinstance(given, Sequence) else ()
            object.__setattr__(self, name, widths)
            if not (widths and all(_is_count(width, 1) for width in widths)):
                raise ValueError(
                    f"{name} must be a list of one or more widths of at least 1, got {given!r}"
                )
        if len(self.head) > 2:
            raise ValueError(f"head must be one or two widths, got {self.head}")
        for wanted, (valid, names) in _RANGES.items():
            for name in names.split():
                value = getattr(self, name)
                try:
                    fits = valid(value)
                except TypeError:  # a text where a number has to be
                    fits = False
                if not fits:
                    raise ValueError(f"{name} must be {wanted}, got {value!r}")
        if self.audit and self.argmax != "exact":
            raise ValueError(
                f"audit={self.audit} proves exact argmaxes, but argmax is {self.argmax!r}"
            )
        if self.dual_filtering and (self.loss != "hinge" or self.argmax != "exact"):
            raise ValueError("dual_filtering needs loss='hinge' and argmax='exact'")

    @classmethod
    def restless(cls, **changes: Any) -> DQNConfig:
        """Return parameters for the published network on restless bandits whose model is known.

        They were the defaults up to version 0.1, and are those of the committed experiments.

        Parameters
        ----------
        **changes
            Parameters to set otherwise.
        """
        return cls(**{**_RESTLESS, **changes})

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
        return cls(**{**_RESTLESS, **published, **changes})


_RESTLESS: dict[str, Any] = {
    "architecture": "concat",
    "normalise": False,
    "average_decay": 0.0,
    "discount": 0.99,
    "epsilon_start": 0.9,
    "epsilon_end": 0.05,
    "epsilon_decay": 1000.0,
    "batch_size": 32,
    "updates_per_step": 6,
    "learning_rate": 2.5e-4,
    "weight_decay": 0.3,
    "pretrain_epochs": 300,
    "pretrain_batch_size": 512,
    "pretrain_learning_rate": 3e-3,
    "pretrain_learning_rate_decay": 0.985,
}


def _is_count(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "an integer of at least 1": (
        lambda v: _is_count(v, 1),
        "batch_size updates_per_step buffer_size sync_every n_step pretrain_batch_size cache_size"
        " critics",
    ),
    "an integer of at least 0": (
        lambda v: _is_count(v, 0),
        "episodes pretrain_epochs pretrain_states pretrain_actions pretrain_replay",
    ),
    "an integer of at least 0, or None": (lambda v: v is None or _is_count(v, 0), "random_steps"),
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
        "priority_exponent importance_exponent epsilon_start epsilon_end audit",
    ),
    "in [0, 1)": (lambda v: 0 <= v < 1, "discount average_decay"),
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
    "true or false": (
        lambda v: isinstance(v, bool),
        "dual_filtering normalise double level_targets expected_rewards",
    ),
    f"one of {', '.join(map(repr, get_args(SolverName)))}": (
        lambda v: v in get_args(SolverName),
        "solver",
    ),
    "'bigm' or 'partition'": (lambda v: v in get_args(Formulation), "formulation"),
    "'interval', 'linear' or 'lp'": (lambda v: v in get_args(Strength), "bounds"),
    "'compact' or 'pyomo'": (lambda v: v in ("compact", "pyomo"), "engine"),
    "'auto', 'concat', 'arms' or 'equivariant'": (
        lambda v: v in ("auto", "concat", "arms", "equivariant"),
        "architecture",
    ),
    "'min' or 'mean'": (lambda v: v in ("min", "mean"), "critics_reduce"),
    "'hard' or 'soft'": (lambda v: v in ("hard", "soft"), "target_update"),
}
