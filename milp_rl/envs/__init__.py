"""Gymnasium environments with combinatorial actions."""

import gymnasium as gym

from milp_rl.envs.capacity import CapacityBandit, CapacityInstance
from milp_rl.envs.restless_bandit import ArmChains, FeasibleActions, RestlessBandit

gym.register(id="milp_rl/CapacityBandit-v0", entry_point="milp_rl.envs.capacity:CapacityBandit")

__all__ = ["ArmChains", "CapacityBandit", "CapacityInstance", "FeasibleActions", "RestlessBandit"]
