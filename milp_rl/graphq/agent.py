"""Graph-Q: deep Q-learning on a dependency graph, with decisions built one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from milp_rl.dqn.agent import DQNAgent, StateArray
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.learner import QLearner
from milp_rl.formulations.arrays import ActionArray, check_vector
from milp_rl.graphq.graph import DependencyGraph
from milp_rl.graphq.network import GraphQNetwork
from milp_rl.graphq.policy import GraphQPolicy
from milp_rl.qnetwork import ActionValue

_ADDITIONS = 4


@dataclass(frozen=True)
class GraphDQNConfig(DQNConfig):
    """Parameters of :class:`GraphDQN`.

    Those of :class:`~milp_rl.dqn.DQNConfig`, without the model-based pretraining by default, and
    with no use for ``hidden`` and what concerns the exact argmax; and

    Parameters
    ----------
    graph
        Where the graph comes from if none is given: ``"estimated"`` from the random steps,
        ``"complete"``: everything moves everything.
    channels, layers, embedding
        As for :class:`~milp_rl.graphq.GraphQNetwork`.
    width
        Beam of decisions when acting; targets and exploration are built greedily.
    temperature
        If positive, exploration draws decisions from the softmax of marginal values, beside those
        that are random with probability epsilon.
    addition_weight
        Weight of the loss of the marginal values against that of the values.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    weight_decay: float = 0.01
    random_steps: int = 2000
    pretrain_epochs: int = 60
    pretrain_batch_size: int = 64
    pretrain_learning_rate_decay: float = 0.95
    learning_rate: float = 5e-4
    graph: Literal["estimated", "complete"] = "estimated"
    channels: int = 16
    layers: int = 2
    embedding: int = 8
    width: int = 1
    temperature: float = 0.0
    addition_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.graph not in ("estimated", "complete"):
            raise ValueError(f"graph must be 'estimated' or 'complete', got {self.graph!r}")
        for name, least in (("channels", 1), ("layers", 1), ("embedding", 0), ("width", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name in ("temperature", "addition_weight"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be nonnegative, got {getattr(self, name)!r}")


class GraphQLearner(QLearner):
    r"""Q-learning of a :class:`GraphQNetwork`.

    The values of whole decisions are learnt as in :class:`~milp_rl.dqn.learner.QLearner`; the
    marginal values of additions from them, at a random part S of each decision in a batch and a few
    random interventions i,

    .. math:: \Delta_i(s, S) \to Q(s, S + e_i) - Q(s, S).
    """

    def _values(
        self, states: Tensor, actions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        network, config = self.network, self.config
        assert isinstance(network, GraphQNetwork)
        assert isinstance(config, GraphDQNConfig)
        batch, n = actions.shape
        keep = rng.random((batch, n)) < rng.random((batch, 1))
        partial = actions * torch.from_numpy(keep)
        drawn = np.argsort(rng.random((batch, n)) + partial.numpy(), axis=1)[:, :_ADDITIONS]
        index = torch.from_numpy(drawn)
        # The whole decisions and the parts in one pass.
        values, additions = network(states.repeat(2, 1), torch.cat([actions, partial]))
        with torch.no_grad():
            grown = partial.repeat_interleave(index.shape[1], dim=0)
            grown.scatter_(1, index.reshape(-1, 1), 1.0)
            after = network.q(states.repeat_interleave(index.shape[1], dim=0), grown)
        wanted = after.reshape(index.shape) - values[batch:].detach()[:, None]
        found = additions[batch:].gather(1, index)
        new = (partial.gather(1, index) == 0).float()  # where a decision is almost everything
        loss = (new * nn.functional.huber_loss(found, wanted, reduction="none")).mean()
        return values[:batch], config.addition_weight * loss


class GraphDQN(DQNAgent):
    """Graph-Q and its training: that of :class:`~milp_rl.dqn.DQNAgent`, on a dependency graph.

    Parameters
    ----------
    env
        As for :class:`~milp_rl.dqn.DQNAgent`; its interventions are its actions, its variables its
        observations.
    config
        Parameters; by default those of the class.
    graph
        The dependency graph; by default as the configuration says.
    seed
        Seed of everything, the random steps and the estimate among it.

    Raises
    ------
    ValueError
        If environment, graph and configuration do not fit.
    """

    config_class: ClassVar[type[DQNConfig]] = GraphDQNConfig
    config: GraphDQNConfig

    def __init__(
        self,
        env: gym.Env[Any, Any],
        config: GraphDQNConfig | None = None,
        *,
        graph: DependencyGraph | None = None,
        seed: int = 0,
    ) -> None:
        self._given = graph
        super().__init__(env, config, seed=seed)

    def _new_learner(self) -> QLearner:
        c = self.config
        self.graph = self._made_graph() if self._given is None else self._given
        sizes = len(self.graph.variables), len(self.graph.interventions)
        if sizes != (self.state_dim, self.space.n_actions):
            raise ValueError(
                f"the graph has {sizes[0]} variables and {sizes[1]} interventions, the environment"
                f" {self.state_dim} and {self.space.n_actions}"
            )
        network = GraphQNetwork(
            self.graph,
            channels=c.channels,
            layers=c.layers,
            embedding=c.embedding,
            seed=self.seed,
        )
        return GraphQLearner(network, self.space, c, self._new_chooser)

    def _new_chooser(self, network: ActionValue) -> GraphQPolicy:
        assert isinstance(network, GraphQNetwork)
        return GraphQPolicy(network, self.space)

    def _made_graph(self) -> DependencyGraph:
        if not self.config.random_steps:
            raise ValueError("without a graph, random_steps are needed to estimate one from")
        data = self.random_play
        if self.config.graph == "complete":
            return DependencyGraph.complete(data.interventions, data.variables)
        return DependencyGraph.estimate(data, seed=self.seed)

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint's run must have in common with this one: plain values."""
        return {**super().setup, "dependency graph": self.graph.graphml()}

    @classmethod
    def _from_setup(cls, env: gym.Env[Any, Any], setup: dict[str, Any]) -> Self:
        config = cls._config_of(setup)
        assert isinstance(config, GraphDQNConfig)
        graph = DependencyGraph.parse_graphml(setup["dependency graph"])
        return cls(env, config, graph=graph, seed=setup["seed"])

    def policy(self, **options: Any) -> GraphQPolicy:
        """Return the policy of the network as it is; options as for :class:`GraphQPolicy`."""
        network = self.network
        assert isinstance(network, GraphQNetwork)
        return GraphQPolicy(network, self.space, **options)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the decision built in a state, shape (n_actions,), int8."""
        if self.config.width == 1:
            return super().act(state)
        s = check_vector(state, "state").astype(np.float32)
        self._feasible.at(s)
        return self.policy(width=self.config.width).act(s)

    def _explore(self, state: StateArray) -> ActionArray:
        if not self.config.temperature or self.rng.random() < self.epsilon:
            return super()._explore(state)
        policy = self.policy(temperature=self.config.temperature)
        return np.asarray(policy.actions(state[None], self.rng)[0])
