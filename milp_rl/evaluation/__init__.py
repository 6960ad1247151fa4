"""Evaluating policies."""

from milp_rl.extras import needs

with needs("learn"):
    from milp_rl.evaluation.evaluate import evaluate, summarize
    from milp_rl.evaluation.exact import ExactPolicy, JointMDP
    from milp_rl.evaluation.learning_curves import learning_curve, plot_learning_curves
    from milp_rl.evaluation.parallel import evaluate_parallel
    from milp_rl.evaluation.plots import plot_rewards

__all__ = [
    "ExactPolicy",
    "JointMDP",
    "evaluate",
    "evaluate_parallel",
    "learning_curve",
    "plot_learning_curves",
    "plot_rewards",
    "summarize",
]
