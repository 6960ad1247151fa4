"""Policies to compare with."""

from milp_rl.baselines.greedy import GreedyArgmax
from milp_rl.baselines.policies import (
    IterativeDQNPolicy,
    IterativeMyopicPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
    SamplingPolicy,
)
from milp_rl.baselines.whittle import WhittlePolicy, whittle_indices

__all__ = [
    "GreedyArgmax",
    "IterativeDQNPolicy",
    "IterativeMyopicPolicy",
    "MyopicPolicy",
    "NullPolicy",
    "Policy",
    "RandomPolicy",
    "SamplingPolicy",
    "WhittlePolicy",
    "whittle_indices",
]
