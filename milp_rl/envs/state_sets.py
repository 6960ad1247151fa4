"""The feasible set of each state, as learners ask for it."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from milp_rl.formulations.spaces.base import ActionSpace


class StateSets(Protocol):
    """Gives the feasible set in a state, all over the same variables."""

    @property
    def space(self) -> ActionSpace:
        """The set of all states, or an example of them."""

    def in_state(self, state: Any) -> ActionSpace:
        """Return the set in a state."""

    def in_states(self, states: NDArray[Any]) -> list[ActionSpace] | None:
        """Return the set in each state, or ``None`` where one set is that of all."""
