"""Learning from logged decisions, and judging policies by them."""

from milp_rl.factored_actions import FactoredActionSpace
from milp_rl.offline.care_data import CareData, generate_care_management

__all__ = ["CareData", "FactoredActionSpace", "generate_care_management"]
