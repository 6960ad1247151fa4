"""Graph-structured Q-learning: decisions built one intervention at a time."""

from milp_rl.extras import needs

with needs("graphq"):
    import gymnasium as gym

    from milp_rl.envs.transitions import Transitions, collect_transitions
    from milp_rl.formulations.spaces.sequential import SequentialBuilder, valued_by
    from milp_rl.graphq.agent import GraphDQN, GraphDQNConfig
    from milp_rl.graphq.edges import Interaction
    from milp_rl.graphq.exact import GraphQValue
    from milp_rl.graphq.graph import DependencyGraph, Scores
    from milp_rl.graphq.instance import InterventionsInstance
    from milp_rl.graphq.network import GraphQNetwork
    from milp_rl.graphq.policy import GraphQPolicy
    from milp_rl.graphq.presets import PRESETS
    from milp_rl.graphq.synthetic import SyntheticInterventions, make_interventions

gym.register(
    id="milp_rl/SyntheticInterventions-v0",
    entry_point="milp_rl.graphq.synthetic:SyntheticInterventions",
)
gym.register(
    id="milp_rl/Interventions-v0",
    entry_point="milp_rl.graphq:make_interventions",
    kwargs={"preset": "10x10", "seed": 0},
)

__all__ = [
    "PRESETS",
    "DependencyGraph",
    "GraphDQN",
    "GraphDQNConfig",
    "GraphQNetwork",
    "GraphQPolicy",
    "GraphQValue",
    "Interaction",
    "InterventionsInstance",
    "Scores",
    "SequentialBuilder",
    "SyntheticInterventions",
    "Transitions",
    "collect_transitions",
    "make_interventions",
    "valued_by",
]
