"""Experiments: training and evaluating methods over domains, sizes and seeds."""

from milp_rl.extras import needs

with needs("learn"):
    from milp_rl.experiments.config import Cell, ExperimentConfig
    from milp_rl.experiments.report import write_report
    from milp_rl.experiments.runner import run_cell, run_experiment

__all__ = ["Cell", "ExperimentConfig", "run_cell", "run_experiment", "write_report"]
