"""Cross-entropy search over the feasible actions of a combinatorial set.

The counterpart for binary variables of the search over boxes in
:mod:`milp_rl.heuristics.continuous`: each variable has a score with a normal distribution; a draw
of scores is turned into the action that takes items by falling score while they fit (those below
one half only where the set requires more), and the distribution is fitted to the best actions. As
there, random numbers are drawn once, so that the action is a function of the network and the state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import ActionArray, check_states
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.heuristics.greedy import HeuristicArgmax
from milp_rl.heuristics.scores import built_by_scores


class CombinatorialCrossEntropyArgmax(HeuristicArgmax):
    """The cross-entropy method: sample, refit to the best, repeat.

    Parameters
    ----------
    network, space
        As for :class:`~milp_rl.heuristics.greedy.HeuristicArgmax`; the variables are binary.
    iterations, samples, elites
        Rounds, samples per round, and how many of them the next distribution is fitted to.
    seed
        Seed of the samples.

    Raises
    ------
    ValueError
        If a number is out of range or a variable is not binary.
    """

    def __init__(
        self,
        network: Any,
        space: ActionSpace,
        *,
        iterations: int = 3,
        samples: int = 32,
        elites: int = 5,
        seed: int = 0,
    ) -> None:
        if iterations < 1 or not 1 <= elites <= samples:
            raise ValueError(
                "iterations must be at least 1 and elites between 1 and samples, got"
                f" {iterations}, {elites} and {samples}"
            )
        space.require_binary("built one by one")
        super().__init__(network, space)
        self.elites = elites
        rng = np.random.default_rng(seed)
        self._noise = rng.standard_normal((iterations, samples, space.n_actions))

    def actions(self, states: ArrayLike) -> ActionArray:
        """Find an action in each state, shape (n, n_actions), int8."""
        networks = self._value.at_states(check_states(states, self._value.state_dim))
        n, width = networks.n_states, self.space.n_actions
        each, samples = np.arange(n), self._noise.shape[1]
        mean, deviation = np.full((n, width), 0.5), np.full((n, width), 0.5)
        best: ActionArray = np.zeros((n, width), dtype=np.int8)
        found = np.full(n, -np.inf)
        of = np.repeat(each, samples)
        for noise in self._noise:
            scores = (mean[:, None] + deviation[:, None] * noise).reshape(-1, width)
            drawn = built_by_scores(self.space, scores - 0.5)
            values = networks.values(drawn.astype(np.float64), of).reshape(n, samples)
            drawn = drawn.reshape(n, samples, width)
            order = np.argsort(-values, axis=1, kind="stable")[:, : self.elites]
            top = values[each, order[:, 0]]
            best = np.where((top > found)[:, None], drawn[each, order[:, 0]], best)
            found = np.maximum(top, found)
            elite = np.take_along_axis(drawn, order[..., None], axis=1)
            # Floored: what no elite has, or all have, is still drawn otherwise now and then.
            mean, deviation = elite.mean(axis=1), np.maximum(elite.std(axis=1), 0.1)
        return best
