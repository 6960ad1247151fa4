"""Decisions built on a graph Q-network, one intervention at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import (
    ActionArray,
    BoolArray,
    FloatArray,
    check_states,
    check_vector,
)
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.sequential import SequentialBuilder
from milp_rl.graphq.marginals import GreedyMarginals
from milp_rl.graphq.network import GraphQNetwork


class GraphQPolicy:
    """Builds decisions on a :class:`GraphQNetwork`: one pass of it per intervention, batched.

    Parameters
    ----------
    network
        The network, whose later changes count.
    space
        The feasible set over its interventions.
    width, epsilon, temperature
        As for :class:`~milp_rl.formulations.spaces.sequential.SequentialBuilder`.
    seed
        Seed of sampling.

    Raises
    ------
    ValueError
        If network and space do not fit, or a number is out of range.
    """

    def __init__(
        self,
        network: GraphQNetwork,
        space: ActionSpace,
        *,
        width: int = 1,
        epsilon: float = 0.0,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        if network.action_dim != space.n_actions:
            raise ValueError(
                f"the network has {network.action_dim} interventions, the space {space.n_actions}"
            )
        self.network = network
        self.space = space
        self.builder = SequentialBuilder(
            space, width=width, epsilon=epsilon, temperature=temperature
        )
        self._rng = np.random.default_rng(seed)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a feasible decision, shape (n_actions,), int8."""
        s = check_vector(state, "state")
        return np.asarray(self.actions(s[None])[0])

    def actions(self, states: ArrayLike, rng: np.random.Generator | None = None) -> ActionArray:
        """Build a decision in each state.

        Parameters
        ----------
        states
            Shape (n, state_dim), finite.
        rng
            Source of sampling; by default the policy's own.

        Returns
        -------
        numpy.ndarray
            Shape (n, n_actions), int8.

        Raises
        ------
        RuntimeError
            If no feasible decision can be built.
        """
        s = check_states(states, self.network.state_dim).astype(np.float32)

        def expand(
            rows: NDArray[np.intp], actions: ActionArray, allowed: BoolArray
        ) -> tuple[FloatArray, FloatArray]:
            return self.network.expansion(s, rows, actions)

        greedy = self.builder.width == 1 and not self.network.graph.interactions
        marginals = GreedyMarginals(self.network, s) if greedy else expand
        return self.builder.build(marginals, len(s), self._rng if rng is None else rng)

    def update(self, network: GraphQNetwork) -> None:
        """Take over a network."""
        self.network = network

    def explain(self, state: ArrayLike) -> pd.DataFrame:
        """Show how the greedy decision in a state is built.

        Parameters
        ----------
        state
            Shape (state_dim,).

        Returns
        -------
        pandas.DataFrame
            One row per step: ``selected`` (what it adds, ``""`` for stopping), ``value`` (of
            stopping before it), and for each intervention its marginal value, NaN where it cannot
            be added.
        """
        s = check_vector(state, "state").astype(np.float32)[None]
        names = self.network.graph.interventions
        partials: list[ActionArray] = []
        rows: list[list[float]] = []

        def expand(
            _: NDArray[np.intp], actions: ActionArray, allowed: BoolArray
        ) -> tuple[FloatArray, FloatArray]:
            values, children = self.network.expansion(s, np.zeros(1, dtype=np.intp), actions)
            partials.append(actions[0])
            rows.append([float(values[0]), *np.where(allowed, children - values, np.nan)[0]])
            return values, children

        partials.append(SequentialBuilder(self.space).build(expand, 1)[0])
        table = pd.DataFrame(rows, columns=["value", *names])
        added = [np.flatnonzero(b > a) for a, b in itertools.pairwise(partials)]
        table.insert(0, "selected", ["".join(names[i] for i in new) for new in added])
        return table
