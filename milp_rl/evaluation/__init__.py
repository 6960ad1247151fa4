"""Evaluating policies."""

from milp_rl.evaluation.evaluate import evaluate, summarize
from milp_rl.evaluation.exact import ExactPolicy, JointMDP
from milp_rl.evaluation.plots import plot_rewards

__all__ = ["ExactPolicy", "JointMDP", "evaluate", "plot_rewards", "summarize"]
