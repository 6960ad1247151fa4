"""Policies and heuristic argmaxes to compare with."""

from milp_rl.extras import needs

with needs("learn"):
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
    from milp_rl.heuristics.continuous import (
        CrossEntropyArgmax,
        GradientAscentArgmax,
        argmax_gaps,
    )
    from milp_rl.heuristics.greedy import GreedyArgmax

__all__ = [
    "CrossEntropyArgmax",
    "GradientAscentArgmax",
    "GreedyArgmax",
    "IterativeDQNPolicy",
    "IterativeMyopicPolicy",
    "MyopicPolicy",
    "NullPolicy",
    "Policy",
    "RandomPolicy",
    "SamplingPolicy",
    "WhittlePolicy",
    "argmax_gaps",
    "whittle_indices",
]
