r"""The value of a whole decision by a graph Q-network, whose argmax solvers can prove.

A :class:`~milp_rl.graphq.GraphQNetwork` values a decision a in a state s by

.. math:: Q(s, a) = b + \sum_k f(h_k) + \sum_i a_i \, g(h_i),

with h the features of the nodes after the last round of messages, which depend on s and all of a.
This is what stopping at a is worth, whatever the order in which its interventions were selected,
and what temporal differences teach. The sequential builder maximises it greedily: from a it goes on
to the :math:`a + e_i` of the highest :math:`Q(s, a) + d(h_i)`, where d is learnt to be
:math:`Q(s, a + e_i) - Q(s, a)`, and stops where no d is positive. (The sum of the d along a build
would be no value of a decision, since it depends on the order.) So the argmax of Graph-Q is that of
Q, and what the builder leaves is

.. math:: \max_{a \in A(s)} Q(s, a) - Q(s, a^{\text{built}}) \ge 0,

by greed and by errors of d.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_geometric.nn import Linear

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.bounds import BoundPropagator, box_maximum
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.graphq.network import GraphQNetwork, WeightedConv
from milp_rl.graphq.unrolling import Unrolling

_CHECKED, _TOLERANCE = 8, 1e-6
_INSTEAD = (
    "Use GraphQNetwork's own parts there for an exact argmax, or build decisions without a proof"
    " with GraphQPolicy(network, space, width=...)"
)


class GraphQValue(ActionValue):
    """The value of whole decisions by a graph Q-network, for solvers of its argmax.

    What depends on the state alone is evaluated there in float64; layers are only what follows the
    decision (:mod:`milp_rl.graphq.unrolling`). The decision is binary: of others the values are not
    the network's. The network is copied; later changes come by
    :meth:`ArgmaxSolver.update <milp_rl.argmax_solver.ArgmaxSolver.update>` with a new value.

    Parameters
    ----------
    network
        The network. Its encoder of variables may be any module, being of the state alone.

    Raises
    ------
    NetworkError
        If what follows the decision is not linear and ReLU; all such parts are named.

    Examples
    --------
    >>> import milp_rl as mr
    >>> from milp_rl.graphq import GraphQNetwork, GraphQPolicy, GraphQValue, make_interventions
    >>> env = make_interventions("8x8", seed=0)
    >>> space = env.action_space_block()
    >>> network = GraphQNetwork(env.instance.graph(), channels=4, layers=1, seed=0)
    >>> state, _ = env.reset(seed=0)
    >>> value = GraphQValue(network)
    >>> best = mr.ArgmaxSolver(value, space).solve(state)
    >>> best.status
    'optimal'
    >>> built = GraphQPolicy(network, space).act(state)
    >>> bool(value.values(state[None], built[None])[0] <= best.value)
    True
    """

    def __init__(self, network: GraphQNetwork) -> None:
        found = _offending(network)
        if found:
            raise NetworkError(
                "what follows the decision in a graph Q-network must be linear and ReLU, but"
                f" {'; '.join(found)}. {_INSTEAD}"
            )
        self.n_actions, self.state_dim = network.action_dim, network.state_dim
        self._network = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
        self._propagator = BoundPropagator(
            self.n_actions, box_maximum(np.zeros(self.n_actions), np.ones(self.n_actions))
        )
        self._check()

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the decision alone, for finite states (states, state_dim)."""
        with torch.no_grad():
            return Unrolling(self._network, self._propagator, states).networks()

    def _check(self) -> None:
        """Raise ``NetworkError`` unless random decisions have the values that the module gives."""
        rng = np.random.default_rng(0)
        states = rng.random((_CHECKED, self.state_dim))
        actions = rng.integers(0, 2, (_CHECKED, self.n_actions)).astype(np.float64)
        with torch.no_grad():
            wanted = self._network.q(torch.from_numpy(states), torch.from_numpy(actions)).numpy()
        error = float(np.abs(self.values(states, actions) - wanted).max())
        if not error <= _TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise NetworkError(
                f"the network values random decisions up to {error:.3g} away from what its weights"
                f" give in a GraphQNetwork, so that something else, such as a hook, has a part in"
                f" it. {_INSTEAD}"
            )


def _offending(network: GraphQNetwork) -> list[str]:
    """Describe the parts after the decision that are not those of a :class:`GraphQNetwork`."""
    parts: list[tuple[str, Any, tuple[type[nn.Module], ...]]] = []
    for kind, encoder in network.encoders.items():
        if kind != "variable":
            parts.append((f"encoders[{kind!r}]", encoder, (nn.Linear,)))
    for i, convolution in enumerate(network.convolutions):
        convs: Any = convolution.convs
        for relation, conv in convs.items():
            path = f"convolutions[{i}].convs[{relation!r}]"
            parts.append((path, conv, (WeightedConv,)))
            for name in ("lin_rel", "lin_root"):
                linear = getattr(conv, name, None)
                if linear is not None:
                    parts.append((f"{path}.{name}", linear, (nn.Linear, Linear)))
    for name in ("variable", "selected"):
        head: Any = network.heads[name]
        path = f"heads[{name!r}]"
        parts.append((path, head, (nn.Sequential,)))
        if isinstance(head, nn.Sequential):
            wanted = (nn.Linear, nn.ReLU, nn.Linear)
            for position in range(max(len(head), len(wanted))):
                own = head[position] if position < len(head) else None
                allowed = wanted[position : position + 1]
                parts.append((f"{path}[{position}]", own, allowed))
    found = [
        f"{path} is {type(part).__name__}"
        + (f", not {allowed[0].__name__}" if allowed else ", where nothing should be")
        for path, part, allowed in parts
        if not isinstance(part, allowed)
    ]
    kind_of = type(network)
    for method in ("q", "_values"):
        if getattr(kind_of, method) is not getattr(GraphQNetwork, method):
            found.append(f"{kind_of.__name__} has a {method} of its own")
    return found
