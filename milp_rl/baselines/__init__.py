"""Policies to compare with: null, random, myopic, iterative."""

from milp_rl.baselines.linear_argmax import LinearArgmax
from milp_rl.baselines.policies import (
    IterativeDQNPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
)

__all__ = [
    "IterativeDQNPolicy",
    "LinearArgmax",
    "MyopicPolicy",
    "NullPolicy",
    "Policy",
    "RandomPolicy",
]
