"""The parameters of learning from logged decisions, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Method = Literal["dqn", "cql", "iql", "bc"]


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """What :func:`milp_rl.offline.fit` learns, and how; the rest is a ``DQNConfig``.

    >>> OfflineConfig(method="iql", expectile=0.8).updates
    5000

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    method: Method = "iql"
    """What is learnt.

    ``"dqn"``: Q, by the targets of Q-learning, which believe what the network says of actions that
    were never logged. ``"cql"``: the same, with the values of best actions pressed down. ``"iql"``:
    Q by the expectiles of logged values, without any maximum in training. ``"bc"``: the logged
    decisions themselves (behaviour cloning).
    """

    updates: int = 5000
    """Updates of the Q-network, at least 1."""

    # Conservative Q-learning ------------------------------------------------------------------

    conservatism: float = 1.0
    """CQL's alpha: weight of the mean excess of the pressed values over the logged ones."""

    pressed: Literal["maximum", "delayed", "sampled"] = "maximum"
    """Which values are pressed down.

    The log-sum-exp over all actions, CQL(H), has too many terms for a combinatorial set. Instead:
    ``"maximum"``, the largest value, by an exact argmax for every state of every batch, the limit
    of CQL(H) for large values; ``"delayed"``, the larger of the logged value and that of the target
    network's best action, which is solved for once in ``sync_every`` updates: at most that maximum;
    ``"sampled"``, the log-mean-exp over the logged action and ``samples`` random feasible ones:
    CQL(H) on samples, as Kumar et al. (appendix F) estimate it for continuous actions.
    """

    samples: int = 16
    """Random actions per state that are pressed down where they are sampled, at least 1."""

    # Implicit Q-learning ----------------------------------------------------------------------

    expectile: float = 0.8
    """IQL's tau, in (0, 1): the nearer to one, the nearer V comes to the best logged value."""

    value_hidden: tuple[int, ...] = (64, 64)
    """Widths of V's hidden layers."""

    value_learning_rate: float = 1e-3
    """Adam's step size for V, positive."""

    extraction: Literal["argmax", "regression"] = "argmax"
    """How IQL decides: by the exact argmax of Q within the support, or as published.

    ``"regression"``: a factored policy, fitted to logged actions with weights
    :math:`\\min(e^{\\beta (Q - V)}, 100)`, of which the most likely feasible action is taken.
    """

    inverse_temperature: float = 3.0
    """That beta, times the standard deviation of Q - V; at least 0."""

    # Behaviour support ------------------------------------------------------------------------

    support: Literal["none", "likelihood", "hamming"] = "none"
    """What best actions are kept to, in targets and in decisions; for binary actions.

    ``"likelihood"``: those whose likelihood by the behaviour model is at most a factor below the
    largest; ``"hamming"``: those within a distance of the most likely one.
    """

    support_share: float = 0.9
    """Share of logged actions that the factor lets pass, in (0, 1]."""

    support_distance: int = 2
    """Largest Hamming distance, at least 0."""

    behaviour_hidden: tuple[int, ...] = (64, 64)
    """Widths of the behaviour model's hidden layers."""

    behaviour_epochs: int = 50
    """Passes over the data that fit it, at most; at least 1."""

    def __post_init__(self) -> None:
        for name in ("value_hidden", "behaviour_hidden"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (
            ("method", ("dqn", "cql", "iql", "bc")),
            ("pressed", ("maximum", "delayed", "sampled")),
            ("extraction", ("argmax", "regression")),
            ("support", ("none", "likelihood", "hamming")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("updates", "samples", "behaviour_epochs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be an integer of at least 1, got {getattr(self, name)!r}"
                )
        for name in ("conservatism", "inverse_temperature", "support_distance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be in (0, 1), got {self.expectile}")
        if not 0 < self.support_share <= 1:
            raise ValueError(f"support_share must be in (0, 1], got {self.support_share}")
        if not 0 < self.value_learning_rate < math.inf:
            raise ValueError(
                f"value_learning_rate must be positive, got {self.value_learning_rate}"
            )
