"""The greedy counterpart of the exact argmax."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray, check_states
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.sequential import SequentialBuilder, valued_by


class HeuristicArgmax(ABC):
    """Feasible actions of high value, without any guarantee.

    Parameters
    ----------
    network
        Takes [action, state] to Q: what
        :func:`~milp_rl.formulations.networks.conversion.to_action_value` accepts, such as
        :class:`~milp_rl.qnetwork.QNetwork`. Later changes of its weights play no part until
        :meth:`update`.
    space
        The feasible set.
    """

    def __init__(self, network: Any, space: ActionSpace) -> None:
        self.space = space
        self.update(network)

    def update(self, network: Any) -> None:
        """Replace the network."""
        self._value = to_action_value(network, self.space.n_actions)

    @abstractmethod
    def actions(self, states: ArrayLike) -> ActionArray:
        """Find an action in each state.

        Parameters
        ----------
        states
            Shape (n, state_dim), finite.

        Returns
        -------
        numpy.ndarray
            Feasible, shape (n, n_actions), of the space's dtype.
        """


class GreedyArgmax(HeuristicArgmax):
    """Actions built greedily on a Q-network, one addition at a time.

    Parameters
    ----------
    network, space
        As for :class:`HeuristicArgmax`.
    width
        Partial actions kept: 1 builds greedily, more search a beam.
    """

    def __init__(self, network: Any, space: ActionSpace, *, width: int = 1) -> None:
        super().__init__(network, space)
        self._builder = SequentialBuilder(space, width=width)

    def actions(self, states: ArrayLike) -> ActionArray:
        """Build an action in each state.

        Parameters
        ----------
        states
            Shape (n, state_dim), finite.

        Returns
        -------
        numpy.ndarray
            Shape (n, n_actions), int8.

        Raises
        ------
        RuntimeError
            If no feasible action can be built.
        """
        networks = self._value.at_states(check_states(states, self._value.state_dim))

        def values(rows: NDArray[np.intp], actions: ActionArray) -> FloatArray:
            return networks.values(actions.astype(np.float64), rows)

        return self._builder.build(valued_by(values), networks.n_states)
