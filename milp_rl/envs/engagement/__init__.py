"""Maternal health: weekly voice messages, and service calls to those who stop listening."""

from milp_rl.envs.engagement.drawn import DROPOUT, draw_engagement
from milp_rl.envs.engagement.environment import Engagement
from milp_rl.envs.engagement.programme import (
    Beneficiaries,
    Programme,
    listening_without_calls,
)

__all__ = [
    "DROPOUT",
    "Beneficiaries",
    "Engagement",
    "Programme",
    "draw_engagement",
    "listening_without_calls",
]
