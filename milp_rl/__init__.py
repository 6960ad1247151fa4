"""Exact argmax over combinatorial action sets for reinforcement learning.

>>> import milp_rl as mr
>>> space = mr.BudgetTopK(n_actions=20, k=5)
>>> result = mr.argmax(q_network, state, space)  # doctest: +SKIP

Names are loaded when first used, so that ``import milp_rl`` and ``milp_rl.formulations`` do not
import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milp_rl.argmax_solver import ArgmaxSolver, argmax, argmin
    from milp_rl.arm_qnetwork import ArmQNetwork
    from milp_rl.dqn import DQNAgent, DQNConfig
    from milp_rl.formulations.embedding import add_network
    from milp_rl.formulations.networks.conversion import to_action_value, to_network
    from milp_rl.formulations.networks.ensemble import Ensemble
    from milp_rl.formulations.networks.network import Network, NetworkError, ScalingWarning
    from milp_rl.formulations.spaces.base import ActionSpace
    from milp_rl.formulations.spaces.box import Box
    from milp_rl.formulations.spaces.budget import BudgetTopK
    from milp_rl.formulations.spaces.capacity import Capacity
    from milp_rl.formulations.spaces.contradictions import ContradictionError
    from milp_rl.formulations.spaces.factored import FactoredValidity
    from milp_rl.formulations.spaces.intersection import Intersection
    from milp_rl.formulations.spaces.matching import Matching
    from milp_rl.formulations.spaces.permutation import Permutation
    from milp_rl.formulations.spaces.precedence import Precedence
    from milp_rl.formulations.spaces.product import Product
    from milp_rl.formulations.spaces.routing import Routing, london_underground
    from milp_rl.formulations.spaces.scheduling import Scheduling
    from milp_rl.formulations.spaces.simple_path import SimplePath
    from milp_rl.formulations.spaces.union import Union
    from milp_rl.qnetwork import QNetwork, export_onnx
    from milp_rl.solvers.errors import CertificationError, SolverUnavailableError
    from milp_rl.solvers.models.check import check_solution
    from milp_rl.solvers.models.solve import solve_model
    from milp_rl.solvers.result import ArgmaxResult

_HOMES = {
    "ActionSpace": "formulations.spaces.base",
    "ArgmaxResult": "solvers.result",
    "ArgmaxSolver": "argmax_solver",
    "ArmQNetwork": "arm_qnetwork",
    "Box": "formulations.spaces.box",
    "BudgetTopK": "formulations.spaces.budget",
    "Capacity": "formulations.spaces.capacity",
    "CertificationError": "solvers.errors",
    "ContradictionError": "formulations.spaces.contradictions",
    "DQNAgent": "dqn",
    "DQNConfig": "dqn",
    "Ensemble": "formulations.networks.ensemble",
    "FactoredValidity": "formulations.spaces.factored",
    "Intersection": "formulations.spaces.intersection",
    "Matching": "formulations.spaces.matching",
    "Network": "formulations.networks.network",
    "NetworkError": "formulations.networks.network",
    "Permutation": "formulations.spaces.permutation",
    "Precedence": "formulations.spaces.precedence",
    "Product": "formulations.spaces.product",
    "QNetwork": "qnetwork",
    "Routing": "formulations.spaces.routing",
    "ScalingWarning": "formulations.networks.network",
    "Scheduling": "formulations.spaces.scheduling",
    "SimplePath": "formulations.spaces.simple_path",
    "SolverUnavailableError": "solvers.errors",
    "Union": "formulations.spaces.union",
    "add_network": "formulations.embedding",
    "argmax": "argmax_solver",
    "argmin": "argmax_solver",
    "check_solution": "solvers.models.check",
    "export_onnx": "qnetwork",
    "london_underground": "formulations.spaces.routing",
    "solve_model": "solvers.models.solve",
    "to_action_value": "formulations.networks.conversion",
    "to_network": "formulations.networks.conversion",
}

__all__ = [
    "ActionSpace",
    "ArgmaxResult",
    "ArgmaxSolver",
    "ArmQNetwork",
    "Box",
    "BudgetTopK",
    "Capacity",
    "CertificationError",
    "ContradictionError",
    "DQNAgent",
    "DQNConfig",
    "Ensemble",
    "FactoredValidity",
    "Intersection",
    "Matching",
    "Network",
    "NetworkError",
    "Permutation",
    "Precedence",
    "Product",
    "QNetwork",
    "Routing",
    "ScalingWarning",
    "Scheduling",
    "SimplePath",
    "SolverUnavailableError",
    "Union",
    "add_network",
    "argmax",
    "argmin",
    "check_solution",
    "export_onnx",
    "london_underground",
    "solve_model",
    "to_action_value",
    "to_network",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
