"""Learning from logged decisions, and deciding for a whole population."""

from milp_rl.extras import needs

with needs("offline"):
    from milp_rl.envs.factored_actions import FactoredActionSpace
    from milp_rl.offline.allocation import (
        Allocation,
        InfeasibleAllocationError,
        Limit,
        allocate,
        allocate_greedily,
        parity_limits,
    )
    from milp_rl.offline.care.data import CareData, generate_care_management
    from milp_rl.offline.config import OfflineConfig
    from milp_rl.offline.fitting import OfflinePolicy, fit
    from milp_rl.offline.policies import PolicyConfig, WindowPolicy, train_policy
    from milp_rl.offline.population import embed_population, q_table
    from milp_rl.offline.tables import Schema

__all__ = [
    "Allocation",
    "CareData",
    "FactoredActionSpace",
    "InfeasibleAllocationError",
    "Limit",
    "OfflineConfig",
    "OfflinePolicy",
    "PolicyConfig",
    "Schema",
    "WindowPolicy",
    "allocate",
    "allocate_greedily",
    "embed_population",
    "fit",
    "generate_care_management",
    "parity_limits",
    "q_table",
    "train_policy",
]
