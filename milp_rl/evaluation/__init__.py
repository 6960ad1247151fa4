"""Evaluating policies."""

from milp_rl.evaluation.evaluate import evaluate, summarize
from milp_rl.evaluation.plots import plot_rewards

__all__ = ["evaluate", "plot_rewards", "summarize"]
