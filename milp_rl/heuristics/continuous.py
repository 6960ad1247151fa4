"""Heuristic argmaxes over boxes of continuous actions: gradient ascent and cross-entropy search.

The counterparts of the exact argmax in continuous control (Ryu, Chow, Anderson, Tjandraatmadja and
Boutilier, "CAQL: Continuous action Q-learning", ICLR 2020; the cross-entropy method as in
Kalashnikov et al., "QT-Opt", CoRL 2018). Both are feasible and fast and prove nothing:
:func:`argmax_gaps` measures what they lose. Random numbers are drawn once, so that the action is a
function of the network and the state.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.formulations.arrays import FloatArray, check_states
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.heuristics.greedy import HeuristicArgmax


class BoxHeuristic(HeuristicArgmax):
    """What the heuristics have in common.

    Parameters
    ----------
    network
        Takes [action, state] to Q, as for :class:`HeuristicArgmax`.
    space
        A :class:`Box` of continuous variables.

    Raises
    ------
    ValueError
        If the space is another.
    """

    space: Box

    def __init__(self, network: Any, space: ActionSpace) -> None:
        if not isinstance(space, Box) or not space.continuous.all():
            raise ValueError(
                f"{type(self).__name__} needs a Box of continuous variables, got"
                f" {type(space).__name__} with {int(space.continuous.sum())} continuous of"
                f" {space.n_actions} variables"
            )
        super().__init__(network, space)

    def actions(self, states: ArrayLike) -> FloatArray:
        """Find an action in each state, shape (n, n_actions)."""
        s = check_states(states, self._value.state_dim)
        return self._search(self._value.at_states(s))

    @abstractmethod
    def _search(self, networks: ActionNetworks) -> FloatArray:
        """Find an action for each state."""

    def _values(
        self, actions: FloatArray, networks: ActionNetworks
    ) -> tuple[FloatArray, FloatArray]:
        """Return values and gradients of actions, shape (n, points, n_actions)."""
        states = np.repeat(np.arange(len(actions)), actions.shape[1])
        flat = actions.reshape(-1, actions.shape[2])
        values, slopes = networks.values_and_gradients(flat, states)
        return values.reshape(actions.shape[:2]), slopes.reshape(actions.shape)


class GradientAscentArgmax(BoxHeuristic):
    """Projected gradient ascent from several starting points.

    Parameters
    ----------
    network, space
        As for :class:`BoxHeuristic`.
    steps
        Steps, at least 1. Step t moves the action by 1 / (5 + t) of the box's widths along the
        gradient, scaled to the largest component.
    starts
        Starting points, at least 1: the space's anchor, and random ones.
    seed
        Seed of the starting points.
    """

    def __init__(
        self, network: Any, space: ActionSpace, *, steps: int = 20, starts: int = 4, seed: int = 0
    ) -> None:
        super().__init__(network, space)
        if steps < 1 or starts < 1:
            raise ValueError(f"steps and starts must be at least 1, got {steps} and {starts}")
        self.steps = steps
        rng = np.random.default_rng(seed)
        drawn = self.space.sample(rng, starts - 1)
        self._starts = np.concatenate([np.asarray(self.space.anchor)[None], drawn])

    def _search(self, networks: ActionNetworks) -> FloatArray:
        n = networks.n_states
        width = self.space.upper - self.space.lower
        x = np.repeat(self._starts[None], n, axis=0)
        best, found = x, np.full(x.shape[:2], -np.inf)
        for step in range(self.steps + 1):
            values, slope = self._values(x, networks)
            better = values > found
            best, found = np.where(better[..., None], x, best), np.maximum(values, found)
            scaled = slope * width
            largest = np.abs(scaled).max(axis=-1, keepdims=True)
            direction = scaled / np.where(largest > 0, largest, 1.0)
            x = self.space.project(x + direction * width / (5 + step))
        return np.asarray(best[np.arange(n), found.argmax(axis=1)])


class CrossEntropyArgmax(BoxHeuristic):
    """The cross-entropy method: sample, refit a normal distribution to the best, repeat.

    Parameters
    ----------
    network, space
        As for :class:`BoxHeuristic`.
    iterations, samples, elites
        Rounds, samples per round, and how many of them the next distribution is fitted to.
    seed
        Seed of the samples.
    """

    def __init__(
        self,
        network: Any,
        space: ActionSpace,
        *,
        iterations: int = 3,
        samples: int = 64,
        elites: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(network, space)
        if iterations < 1 or not 1 <= elites <= samples:
            raise ValueError(
                "iterations must be at least 1 and elites between 1 and samples, got"
                f" {iterations}, {elites} and {samples}"
            )
        self.elites = elites
        rng = np.random.default_rng(seed)
        self._noise = rng.standard_normal((iterations, samples, self.space.n_actions))

    def _search(self, networks: ActionNetworks) -> FloatArray:
        n, each = networks.n_states, np.arange(networks.n_states)
        mean = np.repeat(np.asarray(self.space.anchor)[None], n, axis=0)
        deviation = np.repeat((self.space.upper - self.space.lower)[None] / 2, n, axis=0)
        best, found = mean, np.full(n, -np.inf)
        for noise in self._noise:
            drawn = self.space.project(mean[:, None] + deviation[:, None] * noise)
            values, _ = self._values(drawn, networks)
            order = np.argsort(-values, axis=1, kind="stable")[:, : self.elites]
            top = values[each, order[:, 0]]
            best = np.where((top > found)[:, None], drawn[each, order[:, 0]], best)
            found = np.maximum(top, found)
            elite = np.take_along_axis(drawn, order[..., None], axis=1)
            mean, deviation = elite.mean(axis=1), elite.std(axis=1)
        return best


def argmax_gaps(
    network: Any, space: ActionSpace, states: ArrayLike, actions: ArrayLike
) -> FloatArray:
    """Return by how much the value of actions is below the proven maximum.

    Parameters
    ----------
    network
        Takes [action, state] to Q.
    space
        The feasible set.
    states, actions
        Shapes (n, state_dim) and (n, n_actions).

    Returns
    -------
    numpy.ndarray
        Nonnegative up to the solver's tolerance, shape (n,), in units of Q.
    """
    exact = ArgmaxSolver(network, space)
    s = check_states(states, exact.state_dim)
    values = exact.value.values(s, np.asarray(actions, dtype=np.float64))
    return np.array([result.value for result in exact.solve_batch(s)]) - values
