"""Action spaces: feasible sets as constraint blocks that compose with ``&``."""

from milp_rl.formulations.actions.base import ActionSpace
from milp_rl.formulations.actions.box import Box
from milp_rl.formulations.actions.budget import BudgetTopK
from milp_rl.formulations.actions.capacity import Capacity
from milp_rl.formulations.actions.factored import FactoredValidity
from milp_rl.formulations.actions.intersection import Intersection
from milp_rl.formulations.actions.pins import Pins
from milp_rl.formulations.actions.product import Product
from milp_rl.formulations.actions.routing import Routing, london_underground
from milp_rl.formulations.actions.scheduling import Scheduling

__all__ = [
    "ActionSpace",
    "Box",
    "BudgetTopK",
    "Capacity",
    "FactoredValidity",
    "Intersection",
    "Pins",
    "Product",
    "Routing",
    "Scheduling",
    "london_underground",
]
