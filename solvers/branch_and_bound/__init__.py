"""Native exact argmax, without a MILP solver: over binary actions, and over boxes."""

from milp_rl.solvers.branch_and_bound.search import BranchAndBoundArgmax
from milp_rl.solvers.branch_and_bound.spatial import SpatialArgmax

__all__ = ["BranchAndBoundArgmax", "SpatialArgmax"]
