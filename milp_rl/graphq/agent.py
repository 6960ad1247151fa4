"""Graph-Q: deep Q-learning on a dependency graph, with decisions built one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.dqn.agent import DQNAgent
from milp_rl.dqn.checkpoint import Checkpoint
from milp_rl.dqn.choosers import HeuristicChooser
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.learner import QLearner
from milp_rl.envs.adaptation import AnyEnv
from milp_rl.envs.known_model import StateArray
from milp_rl.formulations.arrays import ActionArray
from milp_rl.graphq.graph import DependencyGraph
from milp_rl.graphq.network import GraphQNetwork
from milp_rl.graphq.policy import GraphQPolicy
from milp_rl.qnetwork import ActionValue

_ADDITIONS = 4


@dataclass(frozen=True, kw_only=True)
class GraphDQNConfig(DQNConfig):
    """Parameters of :class:`GraphDQN`: those of :class:`~milp_rl.dqn.DQNConfig`, and its own.

    Pretraining is on random steps rather than a model by default. What concerns other networks and
    the exact argmax has no effect.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    weight_decay: float = 0.01
    """AdamW's decay of the weights (not of the biases), at least 0."""

    random_steps: int = 2000
    """Steps of random feasible actions played before anything else, at least 0."""

    pretrain_epochs: int = 60
    """Passes over the one-step data; 0: no pretraining."""

    pretrain_batch_size: int = 64
    """Samples in one update of pretraining, at least 1."""

    pretrain_learning_rate: float = 3e-3
    """AdamW's step size in pretraining, positive."""

    pretrain_learning_rate_decay: float = 0.95
    """Factor on pretraining's step size after every epoch, in (0, 1]."""

    learning_rate: float = 5e-4
    """AdamW's step size, positive."""

    batch_size: int = 32
    """Transitions in one update, at least 1."""

    updates_per_step: int = 6
    """Updates after each step of the environment, at least 1."""

    discount: float = 0.99
    """Discount factor gamma, in [0, 1)."""

    average_decay: float = 0.0
    """Factor on the averaged weights in each step of the environment, in [0, 1); 0: the last."""

    epsilon_start: float = 0.9
    """Probability of a random action in the first step, in [0, 1]."""

    epsilon_end: float = 0.05
    """What that probability falls to, in [0, 1]."""

    epsilon_decay: float = 1000.0
    """Steps in which it falls, positive."""

    # The graph and its network ----------------------------------------------------------------

    graph: Literal["estimated", "complete"] = "estimated"
    """Where the graph comes from if none is given.

    ``"estimated"`` from the random steps, or ``"complete"``: everything moves everything.
    """

    channels: int = 16
    """Width of every layer of :class:`~milp_rl.graphq.GraphQNetwork`, at least 1."""

    layers: int = 2
    """Rounds of messages of it, at least 1."""

    embedding: int = 8
    """Learnt features of each of its nodes, at least 0."""

    addition_weight: float = 1.0
    """Weight of the loss of the marginal values against that of the values, at least 0."""

    # Building decisions -----------------------------------------------------------------------

    width: int = 1
    """Beam of decisions when acting, at least 1; targets and exploration are built greedily."""

    temperature: float = 0.0
    """Temperature of exploration, at least 0.

    If positive, decisions that are not random (with probability epsilon) are drawn from the softmax
    of marginal values; at 0 they are greedy.
    """

    @classmethod
    def restless(cls, **changes: Any) -> GraphDQNConfig:
        """Return the defaults, which are for these too."""
        return cls(**changes)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.graph not in ("estimated", "complete"):
            raise ValueError(f"graph must be 'estimated' or 'complete', got {self.graph!r}")
        for name, least in (("channels", 1), ("layers", 1), ("embedding", 0), ("width", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name in ("temperature", "addition_weight"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < np.inf):
                raise ValueError(f"{name} must be nonnegative, got {value!r}")


class GraphQLearner(QLearner):
    r"""Q-learning of a :class:`GraphQNetwork`.

    The values of whole decisions are learnt as in :class:`~milp_rl.dqn.learner.QLearner`; the
    marginal values of additions from them, at a random part S of each decision in a batch and a few
    random interventions i,

    .. math:: \Delta_i(s, S) \to Q(s, S + e_i) - Q(s, S).
    """

    def explore(
        self, states: StateArray, step: int, episode: int, rng: np.random.Generator
    ) -> list[ActionArray]:
        """Choose as without a graph; with a temperature, draw from marginal values instead."""
        network, config = self.network, self.config
        assert isinstance(network, GraphQNetwork)
        assert isinstance(config, GraphDQNConfig)
        if not config.temperature:
            return super().explore(states, step, episode, rng)
        actions: list[ActionArray] = []
        for i, state in enumerate(states):
            if rng.random() < self.epsilon(step + i):
                actions += super().explore(state[None], step + i, episode, rng)
                continue
            space = self.feasible.in_state(state)
            policy = GraphQPolicy(network, space, temperature=config.temperature)
            actions.append(policy.actions(state[None], rng)[0])
        return actions

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
        return values[None, :batch], config.addition_weight * loss


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
        env: AnyEnv,
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
        return GraphQLearner(network, self._feasible, c, self._new_chooser)

    def _new_chooser(self, network: ActionValue) -> HeuristicChooser:
        return HeuristicChooser(GraphQPolicy, network, self.space)

    def _made_graph(self) -> DependencyGraph:
        if not self.config.random_steps:
            raise ValueError("without a graph, random_steps are needed to estimate one from")
        data = self.random_play
        if self.config.graph == "complete":
            return DependencyGraph.complete(data.interventions, data.variables)
        return DependencyGraph.estimate(data, seed=self.seed)

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint's run must have in common with this one, beside the parameters."""
        return {**super().setup, "dependency graph": self.graph.graphml()}

    @classmethod
    def _like(cls, env: AnyEnv, checkpoint: Checkpoint, **given: Any) -> Self:
        graph = DependencyGraph.parse_graphml(checkpoint.setup["dependency graph"])
        return super()._like(env, checkpoint, graph=graph, **given)

    def policy(self, **options: Any) -> GraphQPolicy:
        """Return the policy of the network as it is; options as for :class:`GraphQPolicy`.

        Raises
        ------
        ValueError
            If the feasible set differs from state to state, as a policy builds in one.
        """
        network = self.network
        assert isinstance(network, GraphQNetwork)
        if self._feasible.varies:
            raise ValueError(
                "the feasible set differs from state to state, and a GraphQPolicy builds decisions"
                " in one: use act(state), or"
                " GraphQPolicy(agent.network, agent.action_space_block(state))"
            )
        return GraphQPolicy(network, self.space, **options)

    def _best_actions(self, states: StateArray) -> ActionArray:
        """Return the decisions built in some states, int8."""
        if self.config.width == 1:
            return super()._best_actions(states)
        network, width = self.network, self.config.width
        assert isinstance(network, GraphQNetwork)
        built = [GraphQPolicy(network, self._feasible.at(s), width=width).act(s) for s in states]
        return np.stack(built)
