"""Deep Q-learning with exact argmax (SEQUOIA)."""

from milp_rl.dqn.agent import DQNAgent
from milp_rl.dqn.callbacks import Callback, CSVLogger, ProgressBar
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.flat import FlatDQN
from milp_rl.dqn.module_value import ModuleValue
from milp_rl.dqn.validation import Validation

__all__ = [
    "CSVLogger",
    "Callback",
    "DQNAgent",
    "DQNConfig",
    "FlatDQN",
    "ModuleValue",
    "ProgressBar",
    "Validation",
]
