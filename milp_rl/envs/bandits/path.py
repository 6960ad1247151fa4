"""The path domain: arms along a route are acted on.

Domain 2 of Xu, Wilder, Khalil and Tambe (ICLR 2025): arms are the nodes of a graph; a closed walk
of at most 2 B edges from a depot passes the arms that are acted on, at most B of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import networkx as nx
import numpy as np

from milp_rl.envs.bandits.additive import AdditiveBandit, AdditiveInstance, draw_probabilities
from milp_rl.envs.bandits.instance import draw_rewards
from milp_rl.envs.bandits.underground import SOURCE, stations_around, whole_underground
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.spaces.routing import Routing, london_underground


@dataclass(frozen=True, eq=False)
class PathInstance(AdditiveInstance):
    """One bandit whose arms are nodes of a graph.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n).
    acting
        Probability of moving up when acted on, shape (J,), in [0, 1].
    passive
        Probability of moving up when not acted on, shape (J,), in [0, 1].
    edges
        Pairs of arms 0..J-1 joined by an edge, undirected.
    depot
        The arm where routes start and end.
    budget
        Largest number of arms acted on, 1 to J.
    max_length
        Largest number of edges of a route.
    horizon
        Steps per episode, at least 1.
    names
        A name for each arm; by default none.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    domain: ClassVar[str] = "path"

    rewards: FloatArray
    acting: FloatArray
    passive: FloatArray
    edges: tuple[tuple[int, int], ...]
    depot: int
    budget: int
    max_length: int
    horizon: int = 20
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_integer("budget", 1, self.n_arms)
        self._check_integer("max_length", 0)
        self._check_integer("depot", 0, self.n_arms - 1)
        object.__setattr__(self, "edges", tuple((int(u), int(v)) for u, v in self.edges))
        for edge in self.edges:
            if not all(0 <= node < self.n_arms for node in edge):
                raise ValueError(f"edges join arms 0..{self.n_arms - 1}, got {edge}")
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        if self.names and len(self.names) != self.n_arms:
            raise ValueError(f"names must be {self.n_arms} or none, got {len(self.names)}")

    def graph(self) -> Any:
        """Return the ``networkx.Graph`` of the arms 0..J-1."""
        graph: Any = nx.Graph()
        graph.add_nodes_from(range(self.n_arms))
        graph.add_edges_from(self.edges)
        return graph

    @classmethod
    def generate(cls, n_arms: int = 10, budget: int = 3, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance as in the paper; the same arguments give the same instance.

        Rewards as in :func:`.instance.draw_rewards`, probabilities as in
        :func:`.additive.draw_probabilities`; the graph is the part of the London Underground
        around a random station, the depot: the ``n_arms`` stations of fewest stops from it.
        Beyond the 66 stations of fare zone 1, it is a random geometric network instead, whose
        nodes have about as many neighbours.

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``budget``.
        budget
            Largest number of arms acted on, at least 1; also the number of good arms, and half
            the number of edges of a route.
        horizon
            Steps per episode.
        seed
            Seed of the generator.
        """
        rng = np.random.default_rng(seed)
        rewards, _ = draw_rewards(rng, n_arms, budget)
        acting, passive = draw_probabilities(rng, n_arms)
        graph = london_underground()
        if n_arms > len(graph):
            graph = _network(rng, n_arms)
        nodes = list(graph)
        depot = nodes[rng.integers(len(nodes))]
        near = [depot, *(v for _, v in nx.bfs_edges(graph, depot))][:n_arms]
        index = {node: i for i, node in enumerate(near)}
        pairs = [(index[u], index[v]) for u, v in graph.edges if u in index and v in index]
        edges = tuple(sorted((min(pair), max(pair)) for pair in pairs))
        names = tuple(map(str, near))
        return cls(rewards, acting, passive, edges, 0, budget, 2 * budget, horizon, names)

    @classmethod
    def underground(
        cls,
        n_arms: int = 20,
        budget: int = 5,
        *,
        source: str = SOURCE,
        horizon: int = 20,
        seed: int,
    ) -> Self:
        """Draw the arms of an instance whose graph is fixed: a part of the whole Underground.

        The stations are those of fewest stops from ``source``, which is the depot
        (:mod:`.underground`); of two sizes, the smaller part is within the larger one. The paper
        has 20, 40, 60, 80 and 100 stations around one for each size. Rewards and
        probabilities as in :meth:`generate`.

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``budget`` and at most 302.
        budget
            Largest number of arms acted on, at least 1; also the number of good arms, and half
            the number of edges of a route.
        source
            Name of a station.
        horizon
            Steps per episode.
        seed
            Seed of rewards and probabilities.
        """
        rng = np.random.default_rng(seed)
        rewards, _ = draw_rewards(rng, n_arms, budget)
        acting, passive = draw_probabilities(rng, n_arms)
        names = stations_around(n_arms, source)
        index = {name: i for i, name in enumerate(names)}
        inside = whole_underground().subgraph(names).edges
        edges = tuple(sorted((min(p), max(p)) for p in ((index[u], index[v]) for u, v in inside)))
        return cls(rewards, acting, passive, edges, 0, budget, 2 * budget, horizon, tuple(names))


class PathBandit(AdditiveBandit):
    """A restless bandit whose arms are acted on along a route.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.Routing`: a binary vector,
    int8, shape (J,), with a one for each arm acted on, at most ``budget`` of them. One closed walk
    from the depot, of at most ``max_length`` edges, passes them all; the walk is not part of the
    action.

    Observation Space
    -----------------
    ``Box(0, n - 1, (J,), float32)``: the state of each arm, an index 0..n-1 as a float, so that it
    feeds a network as it is. Generated instances have n = 4.

    Rewards
    -------
    The sum over arms of ``rewards[j, s]``, s the state that arm j moves to, not the mean. An arm
    moves one up with probability ``acting[j]`` if acted on, else ``passive[j]``, otherwise one
    down, within 0..n-1.

    Starting State
    --------------
    Each arm independently in state 1 with probability 0.2, else in state 0; or the one given as
    ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` steps, 20 by default; never terminated.

    Arguments
    ---------
    ``import milp_rl.envs`` registers the environment.

    ```python
    gymnasium.make("milp_rl/PathBandit-v0", instance=PathInstance.generate(20, 5, seed=0))
    ```

    Parameters
    ----------
    instance
        Arms and graph; by default ``PathInstance.generate(seed=0)``.
    """

    instance: PathInstance

    def __init__(self, instance: PathInstance | None = None) -> None:
        instance = PathInstance.generate(seed=0) if instance is None else instance
        block = Routing(
            instance.graph(), instance.depot, instance.max_length, budget=instance.budget
        )
        super().__init__(instance, block)


def _network(rng: np.random.Generator, n_nodes: int) -> Any:
    """Draw points in a square; join them by a shortest tree and the 38% shortest other edges.

    Other edges join a point to one of its three nearest: 91 edges for 66 nodes, as in the
    Underground, are 1.38 per node.
    """
    points = rng.random((n_nodes, 2))
    length = np.linalg.norm(points[:, None] - points, axis=-1)
    complete: Any = nx.from_numpy_array(length)
    graph: Any = nx.minimum_spanning_tree(complete)
    nearest = np.argsort(length, axis=1)[:, 1:4]
    others = {(min(u, int(v)), max(u, int(v))) for u in range(n_nodes) for v in nearest[u]}
    wanted = round(1.38 * n_nodes) - graph.number_of_edges()
    shortest = sorted(others - {(min(e), max(e)) for e in graph.edges}, key=lambda e: length[e])
    graph.add_edges_from(shortest[:wanted])
    return graph
