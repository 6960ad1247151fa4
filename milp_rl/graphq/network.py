r"""A graph neural network that values a decision, and each intervention added to it.

Nodes are the state variables, with their values, and the interventions, with a flag of whether they
are selected so far; pairs that act together are nodes too. Messages go along the edges of a
:class:`~milp_rl.graphq.graph.DependencyGraph`, times their weights, and from variables back to the
interventions that move them. After the last layer, with h the features of the nodes,

.. math:: Q(s, a) = b + \sum_k f(h_k) + \sum_i a_i \, g(h_i), \qquad
          \Delta_i(s, a) = d(h_i) \approx Q(s, a + e_i) - Q(s, a),

so that one pass values stopping at a and every addition to it.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

with warnings.catch_warnings():  # it compiles what torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.nn import GraphConv, HeteroConv

from milp_rl.formulations.arrays import FloatArray
from milp_rl.graphq.graph import DependencyGraph
from milp_rl.qnetwork import ActionValue

Relation = tuple[str, str, str]


class WeightedConv(GraphConv):  # type: ignore[misc]
    """PyTorch Geometric's ``GraphConv`` on one small graph shared by a batch of features.

    As the graph has at most a few hundred nodes, the sum over neighbours is a product with its
    dense weight matrix, which is several times faster than gathering and scattering.

    Parameters
    ----------
    channels
        Width of features.
    root
        Whether a target's own features count; of several relations into a kind of node, one
        suffices.
    """

    def __init__(self, channels: int, *, root: bool) -> None:
        super().__init__((channels, channels), channels)
        if not root:
            self.lin_root = None

    def forward(
        self, x: Any, edge_index: Tensor, edge_weight: Tensor | None = None, size: Any = None
    ) -> Tensor:
        """Convolve.

        Parameters
        ----------
        x
            Features of the sources, and of the targets, shape (batch, nodes, channels).
        edge_index
            The weight matrix, shape (targets, sources).
        edge_weight, size
            Not used.
        """
        sources, targets = (x, x) if isinstance(x, Tensor) else x
        out: Tensor = self.lin_rel(torch.matmul(edge_index, sources))
        return out if self.lin_root is None else out + self.lin_root(targets)


class GraphQNetwork(ActionValue):
    """Values of decisions and of additions to them, on a dependency graph.

    Parameters
    ----------
    graph
        The graph; a state is the vector of its variables, an action one of its interventions.
    channels
        Width of every layer, at least 1.
    layers
        Rounds of messages, at least 1.
    embedding
        Learnt features of each node, at least 0.
    seed
        Seed of the initial weights; torch's global generator is left alone.

    Raises
    ------
    ValueError
        If a number is too small.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        *,
        channels: int = 32,
        layers: int = 2,
        embedding: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("channels", channels, 1),
            ("layers", layers, 1),
            ("embedding", embedding, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.graph = graph
        self.state_dim, self.action_dim = len(graph.variables), len(graph.interventions)
        relations, sizes = _relations(graph)
        self._names = list(relations)
        rooted = {kind: (_, name, kind) for _, name, kind in reversed(self._names)}.values()
        for i, weights in enumerate(relations.values()):
            self.register_buffer(f"weights_{i}", weights, persistent=False)
        self.members = _members(graph)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = nn.ParameterDict(
                {kind: nn.Parameter(torch.randn(size, embedding)) for kind, size in sizes.items()}
            )
            self.encoders = nn.ModuleDict(
                {kind: nn.Linear(1 + embedding, channels) for kind in sizes}
            )
            self.convolutions = nn.ModuleList(
                HeteroConv(
                    {name: WeightedConv(channels, root=name in rooted) for name in self._names}
                )
                for _ in range(layers)
            )
            self.heads = nn.ModuleDict(
                {
                    name: nn.Sequential(
                        nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 1)
                    )
                    for name in ("variable", "selected", "addition")
                }
            )
        self.level = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Value decisions and additions.

        Parameters
        ----------
        states
            Shape (batch, state_dim).
        actions
            Selected so far, shape (batch, action_dim), zeros and ones.

        Returns
        -------
        tuple of torch.Tensor
            The value of stopping there, shape (batch,), and how much more each intervention would
            add, shape (batch, action_dim); for those already selected, anything.
        """
        values, h = self._values(states, actions)
        return values, self.heads["addition"](h["intervention"])[..., 0]

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return Q(state, action) of whole decisions, shape (batch,)."""
        return self._values(state, action)[0]

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        with torch.no_grad():
            self.level.add_(amount)

    def expansion(
        self, states: NDArray[Any], rows: NDArray[np.intp], actions: NDArray[Any]
    ) -> tuple[FloatArray, FloatArray]:
        """Return the values of partial actions, and of them with each addition, in numpy.

        Parameters
        ----------
        states
            Shape (n, state_dim).
        rows
            The state of each partial action, shape (batch,).
        actions
            Shape (batch, action_dim).
        """
        with torch.no_grad():
            s = torch.from_numpy(np.asarray(states[rows], dtype=np.float32))
            values, additions = self(s, torch.from_numpy(actions.astype(np.float32)))
        stopping = values.double().numpy()
        return stopping, stopping[:, None] + additions.double().numpy()

    def matrices(self) -> dict[Relation, NDArray[np.float32]]:
        """Return the weight matrix of each relation, shape (targets, sources)."""
        return {name: matrix.numpy() for name, matrix in self._weights().items()}

    def _weights(self) -> dict[Relation, Tensor]:
        return {name: self.get_buffer(f"weights_{i}") for i, name in enumerate(self._names)}

    def _values(self, states: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {"variable": states, "intervention": actions.to(states.dtype)}
        if "pair" in self.embeddings:
            # Both selected: the product of the two flags.
            flags = inputs["intervention"]
            first, second = self.members
            inputs["pair"] = flags[:, first] * flags[:, second]
        h = {
            kind: torch.relu(
                self.encoders[kind](
                    torch.cat([x[..., None], self.embeddings[kind].expand(len(x), -1, -1)], dim=-1)
                )
            )
            for kind, x in inputs.items()
        }
        matrices = self._weights()
        for convolution in self.convolutions:
            passed = convolution(h, matrices)
            h = {kind: torch.relu(passed[kind]) if kind in passed else x for kind, x in h.items()}
        selected = self.heads["selected"](h["intervention"])[..., 0] * inputs["intervention"]
        variables = self.heads["variable"](h["variable"])[..., 0]
        return self.level + variables.sum(dim=-1) + selected.sum(dim=-1), h


def _relations(graph: DependencyGraph) -> tuple[dict[Relation, Tensor], dict[str, int]]:
    """Return the weight matrix of every relation, scaled, and how many nodes there are."""
    m, n = len(graph.variables), len(graph.interventions)
    pairs = np.zeros((m, len(graph.interactions)))
    joins = np.zeros((n, len(graph.interactions)))
    for p, pair in enumerate(graph.interactions):
        pairs[pair.variable, p] = pair.weight
        joins[[pair.first, pair.second], p] = 1.0
    relations = {
        ("intervention", "moves", "variable"): _scaled(graph.effects),
        ("variable", "moves", "variable"): _scaled(graph.influences),
        ("variable", "moved by", "intervention"): _scaled(graph.effects.T),
        ("variable", "moved from", "variable"): _scaled(graph.influences.T),
    }
    sizes = {"variable": m, "intervention": n}
    if graph.interactions:
        relations[("pair", "moves", "variable")] = _scaled(pairs)
        relations[("pair", "has", "intervention")] = joins
        relations[("variable", "moved by", "pair")] = _scaled(pairs.T)
        sizes["pair"] = len(graph.interactions)
    tensors = {
        name: torch.from_numpy(np.array(weights, dtype=np.float32))
        for name, weights in relations.items()
    }
    return tensors, sizes


def _scaled(weights: FloatArray) -> FloatArray:
    """Scale such that the squared weights of the edges into a node sum to 1, on average."""
    into = (weights**2).sum(axis=1)
    into = into[into > 0]
    return weights / np.sqrt(into.mean()) if len(into) else weights


def _members(graph: DependencyGraph) -> tuple[list[int], list[int]]:
    """Return the positions of the interventions of each pair."""
    pairs = graph.interactions
    return [pair.first for pair in pairs], [pair.second for pair in pairs]
