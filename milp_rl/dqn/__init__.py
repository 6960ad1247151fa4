"""Deep Q-learning with exact argmax (SEQUOIA)."""

from milp_rl.extras import needs

with needs("learn"):
    from milp_rl.dqn.agent import DQNAgent
    from milp_rl.dqn.callbacks import Callback, CSVLogger, ProgressBar, TensorBoardLogger
    from milp_rl.dqn.config import DQNConfig
    from milp_rl.dqn.critics import Critics
    from milp_rl.dqn.flat import FlatDQN
    from milp_rl.dqn.module_value import ModuleValue
    from milp_rl.dqn.normalised import NormalisedQNetwork
    from milp_rl.dqn.validation import EvaluationCallback, Validation

__all__ = [
    "CSVLogger",
    "Callback",
    "Critics",
    "DQNAgent",
    "DQNConfig",
    "EvaluationCallback",
    "FlatDQN",
    "ModuleValue",
    "NormalisedQNetwork",
    "ProgressBar",
    "TensorBoardLogger",
    "Validation",
]
