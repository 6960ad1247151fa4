"""Action spaces: feasible sets as constraint blocks that compose with ``&``, ``|`` and ``*``."""

from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.capacity import Capacity
from milp_rl.formulations.spaces.factored import FactoredValidity
from milp_rl.formulations.spaces.intersection import Intersection
from milp_rl.formulations.spaces.matching import Matching
from milp_rl.formulations.spaces.permutation import Permutation
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.precedence import Precedence
from milp_rl.formulations.spaces.product import Product
from milp_rl.formulations.spaces.routing import Routing, london_underground
from milp_rl.formulations.spaces.scheduling import Scheduling
from milp_rl.formulations.spaces.simple_path import SimplePath
from milp_rl.formulations.spaces.union import Union

__all__ = [
    "ActionSpace",
    "Box",
    "BudgetTopK",
    "Capacity",
    "FactoredValidity",
    "Intersection",
    "Matching",
    "Permutation",
    "Pins",
    "Precedence",
    "Product",
    "Routing",
    "Scheduling",
    "SimplePath",
    "Union",
    "london_underground",
]
