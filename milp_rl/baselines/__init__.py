"""Policies to compare with: null, random, myopic, iterative."""

from milp_rl.baselines.policies import (
    IterativeDQNPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
)

__all__ = [
    "IterativeDQNPolicy",
    "MyopicPolicy",
    "NullPolicy",
    "Policy",
    "RandomPolicy",
]
