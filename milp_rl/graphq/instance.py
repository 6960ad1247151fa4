r"""Instances of :class:`milp_rl.graphq.SyntheticInterventions`, and how they are drawn.

The m variables lie in [0, 1]. With x the state, a the interventions and p the pairs of them, the
push on variable k and the value it would go to by itself are

.. math:: u_k = \sum_i W_{ki} a_i + \sum_p V_{kp} a_{p_1} a_{p_2}, \qquad
          d_k = \sum_j P_{kj}^+ x_j + P_{kj}^- (1 - x_j) + (1 - \sum_j |P_{kj}|) b_k,

and the push moves it from there towards 1 or 0, with saturation:

.. math:: \mu_k = d_k + \tanh(u_k)^+ (1 - d_k) - \tanh(u_k)^- d_k, \qquad
          x'_k = \mu_k + \nu \min(\mu_k, 1 - \mu_k) \epsilon_k,

with noise epsilon uniform on [-1, 1]; but with probability rho the variable relapses to 0, so that
the expected next state is (1 - rho) mu. The reward of a step is v @ x' - c @ a. With a ``period``,
two more variables, the sine and cosine of a clock scaled to [0, 1], are observed and move others:
the dynamics then vary in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.bandits.instance import Instance
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.graphq.edges import Interaction
from milp_rl.graphq.graph import DependencyGraph

CLOCK = ("clock sine", "clock cosine")
_MOST_INFLUENCE = 0.95  # of the state on a variable; the rest pulls it to its base


@dataclass(frozen=True, eq=False)
class InterventionsInstance(Instance):
    """One problem of several interacting interventions on variables.

    Parameters
    ----------
    effects
        Effects W of interventions on variables, shape (m, n).
    pairs
        Positions of the interventions of each pair, shape (pairs, 2).
    pair_effects
        Effects V of pairs on variables, shape (m, pairs).
    influences
        Influences P of the state on variables, shape (m, M), with M = m, or m + 2 with a clock;
        each row's absolute sum at most 1. The diagonal is how much of a variable persists.
    base
        Base b, what a variable returns to when left alone, shape (m,), in [0, 1].
    weights
        Value v of each variable, shape (m,).
    costs
        Cost c of each intervention, shape (n,), nonnegative.
    noise
        Size nu of the noise, in [0, 1].
    relapse
        Probability rho of a relapse to 0, in [0, 1).
    period
        Steps of a turn of the clock; 0 for none.
    horizon
        Steps per episode, at least 1.
    block
        The feasible set over the n interventions.
    interventions, variables
        Names; the clock's are added.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    effects: FloatArray
    pairs: NDArray[np.intp]
    pair_effects: FloatArray
    influences: FloatArray
    base: FloatArray
    weights: FloatArray
    costs: FloatArray
    noise: float
    relapse: float
    period: int
    horizon: int
    block: ActionSpace
    interventions: tuple[str, ...]
    variables: tuple[str, ...]

    def __post_init__(self) -> None:
        self._check_array("effects", (None, None), -np.inf)
        m, n = self.effects.shape
        pairs = np.array(self.pairs, dtype=np.intp).reshape(-1, 2)
        if len(pairs) and (pairs.min() < 0 or pairs.max() >= n or (pairs.T[0] == pairs.T[1]).any()):
            raise ValueError(f"pairs must be two different interventions of 0..{n - 1}")
        self._store("pairs", pairs)
        self._store(
            "pair_effects", np.array(self.pair_effects, dtype=np.float64).reshape(m, len(pairs))
        )
        self._check_integer("period", 0)
        self._check_integer("horizon", 1)
        self._check_array("influences", (m, m + 2 * (self.period > 0)), -1.0, 1.0)
        if np.abs(self.influences).sum(axis=1).max() > 1 + 1e-9:
            raise ValueError("the absolute influences on a variable must sum to at most 1")
        self._check_array("base", (m,), 0.0, 1.0)
        self._check_array("weights", (m,), -np.inf)
        self._check_array("costs", (n,))
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be in [0, 1], got {self.noise}")
        if not 0 <= self.relapse < 1:
            raise ValueError(f"relapse must be in [0, 1), got {self.relapse}")
        if self.block.n_actions != n:
            raise ValueError(f"the block has {self.block.n_actions} actions for {n} interventions")
        for name, size in (("interventions", n), ("variables", m)):
            names = tuple(str(value) for value in getattr(self, name))
            if len(names) != size or len(set(names)) < size:
                raise ValueError(f"{name} must be {size} distinct names")
            object.__setattr__(self, name, names)

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed variables, the clock's included."""
        return (*self.variables, *(CLOCK if self.period else ()))

    def graph(self) -> DependencyGraph:
        """Return the true graph; the clock's own motion is no edge."""
        m, observed = len(self.variables), len(self.observed)
        effects = np.zeros((observed, len(self.interventions)))
        influences = np.zeros((observed, observed))
        effects[:m], influences[:m] = self.effects, self.influences
        np.fill_diagonal(influences, 0.0)
        interactions = tuple(
            Interaction(int(min(pair)), int(max(pair)), int(k), float(self.pair_effects[k, p]))
            for k, p in np.argwhere(self.pair_effects)
            for pair in [self.pairs[p]]
        )
        return DependencyGraph(self.interventions, self.observed, effects, influences, interactions)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {**super().to_dict(), "block": self.block.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Rebuild an instance from :meth:`to_dict`; raises ``ValueError`` if it is not one."""
        if not isinstance(data, dict) or "block" not in data:
            raise ValueError(f"not a {cls.__name__}: the block is missing")
        return super().from_dict({**data, "block": ActionSpace.from_dict(data["block"])})

    @classmethod
    def generate(
        cls,
        n_interventions: int = 10,
        budget: int = 5,
        *,
        n_variables: int | None = None,
        effect_density: float | None = None,
        influence_density: float | None = None,
        interaction_density: float = 0.5,
        noise: float = 0.3,
        relapse: float = 0.1,
        period: int = 0,
        horizon: int = 20,
        seed: int,
    ) -> Self:
        """Draw an instance; the same arguments give the same one.

        An intervention moves a few variables, three in four up, the others down (side effects). A
        pair moves a variable that its first intervention moves too, synergies and antagonisms. A
        third of the variables are drivers: of no value themselves, they last and move the others,
        which a myopic policy does not see.

        Parameters
        ----------
        n_interventions, budget
            Number of interventions n, and how many may be chosen at most.
        n_variables
            Number of variables m, at least 2; by default n up to 20, then half of what n exceeds
            20 more.
        effect_density, influence_density
            Expected share of the variables that an intervention moves (at least one), and of the
            other variables that move a variable, beside the driver; by default two and one
            variables.
        interaction_density
            Pairs per intervention.
        noise, relapse, period, horizon
            As in the instance.
        seed
            Seed of the generator.
        """
        n = int(n_interventions)
        m = int(min(n, 20) + max(n - 20, 0) // 2 if n_variables is None else n_variables)
        if n < 2 or m < 2:
            raise ValueError(f"need at least 2 interventions and variables, got {n} and {m}")
        for name, value in (
            ("effect_density", effect_density),
            ("influence_density", influence_density),
            ("interaction_density", interaction_density),
        ):
            if value is not None and not 0 <= value <= (n if name.startswith("inter") else 1):
                raise ValueError(f"{name} is out of range: {value}")
        rng = np.random.default_rng(seed)
        effects = _draw_effects(rng, m, n, 2 / m if effect_density is None else effect_density)
        share = 1 / m if influence_density is None else influence_density
        drivers = rng.permutation(m)[: m // 3]
        influences = _draw_influences(rng, m, share, drivers, clock=period > 0)
        pairs, pair_effects = _draw_pairs(rng, effects, round(interaction_density * n))
        weights = rng.uniform(0.5, 1.5, m)
        weights[drivers] = 0.0
        return cls(
            effects=effects,
            pairs=pairs,
            pair_effects=pair_effects,
            influences=influences,
            base=rng.uniform(0.05, 0.3, m),
            weights=weights,
            costs=rng.uniform(0.02, 0.1, n),
            noise=noise,
            relapse=relapse,
            period=period,
            horizon=horizon,
            block=BudgetTopK(n, budget),
            interventions=tuple(f"intervention {i}" for i in range(n)),
            variables=tuple(f"variable {k}" for k in range(m)),
        )


def _draw_effects(rng: np.random.Generator, m: int, n: int, density: float) -> FloatArray:
    effects = np.zeros((m, n))
    for i in range(n):
        moved = rng.permutation(m)[: max(1, rng.binomial(m, density))]
        signs = np.where(rng.random(len(moved)) < 0.75, 1.0, -1.0)
        signs[0] = 1.0
        effects[moved, i] = signs * rng.uniform(0.5, 1.2, len(moved))
    return effects


def _draw_influences(
    rng: np.random.Generator, m: int, density: float, drivers: NDArray[np.intp], *, clock: bool
) -> FloatArray:
    influences = np.zeros((m, m + 2 * clock))
    for k in range(m):
        parents = np.flatnonzero((rng.random(m) < density) & (np.arange(m) != k))
        if clock and rng.random() < 0.3:
            parents = np.append(parents, m + rng.integers(2))
        signs = np.where(rng.random(len(parents)) < 0.8, 1.0, -1.0)
        influences[k, parents] = signs * rng.uniform(0.1, 0.2, len(parents))
        if k in drivers:
            influences[k, k] = rng.uniform(0.75, 0.9)
        else:
            influences[k, k] = rng.uniform(0.3, 0.5)
            if len(drivers):
                influences[k, rng.choice(drivers)] = rng.uniform(0.25, 0.4)
        influences[k] *= min(1.0, _MOST_INFLUENCE / np.abs(influences[k]).sum())
    return influences


def _draw_pairs(
    rng: np.random.Generator, effects: FloatArray, count: int
) -> tuple[NDArray[np.intp], FloatArray]:
    m, n = effects.shape
    found: dict[tuple[int, int], int] = {}
    for _ in range(count):
        i, j = (int(v) for v in rng.choice(n, 2, replace=False))
        found[min(i, j), max(i, j)] = int(rng.choice(np.flatnonzero(effects[:, i])))
    pair_effects = np.zeros((m, len(found)))
    for p, k in enumerate(found.values()):
        synergy = rng.random() < 0.6
        pair_effects[k, p] = rng.uniform(0.6, 1.2) if synergy else -rng.uniform(0.4, 0.8)
    return np.array(list(found), dtype=np.intp).reshape(-1, 2), pair_effects
