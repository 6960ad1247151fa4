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
    from milp_rl.conversion import to_network
    from milp_rl.dqn import DQNAgent, DQNConfig
    from milp_rl.formulations.actions.base import ActionSpace
    from milp_rl.formulations.actions.box import Box
    from milp_rl.formulations.actions.budget import BudgetTopK
    from milp_rl.formulations.actions.capacity import Capacity
    from milp_rl.formulations.actions.contradictions import ContradictionError
    from milp_rl.formulations.actions.factored import FactoredValidity
    from milp_rl.formulations.actions.intersection import Intersection
    from milp_rl.formulations.actions.product import Product
    from milp_rl.formulations.actions.routing import Routing, london_underground
    from milp_rl.formulations.actions.scheduling import Scheduling
    from milp_rl.formulations.network import Network, NetworkError, ScalingWarning
    from milp_rl.formulations.relu import add_network
    from milp_rl.qnetwork import QNetwork, export_onnx
    from milp_rl.solvers.base import CertificationError, SolverUnavailableError
    from milp_rl.solvers.model import solve_model
    from milp_rl.solvers.result import ArgmaxResult

_HOMES = {
    "ActionSpace": "formulations.actions.base",
    "ArgmaxResult": "solvers.result",
    "ArgmaxSolver": "argmax_solver",
    "Box": "formulations.actions.box",
    "BudgetTopK": "formulations.actions.budget",
    "Capacity": "formulations.actions.capacity",
    "CertificationError": "solvers.base",
    "ContradictionError": "formulations.actions.contradictions",
    "DQNAgent": "dqn",
    "DQNConfig": "dqn",
    "FactoredValidity": "formulations.actions.factored",
    "Intersection": "formulations.actions.intersection",
    "Network": "formulations.network",
    "NetworkError": "formulations.network",
    "Product": "formulations.actions.product",
    "QNetwork": "qnetwork",
    "Routing": "formulations.actions.routing",
    "ScalingWarning": "formulations.network",
    "Scheduling": "formulations.actions.scheduling",
    "SolverUnavailableError": "solvers.base",
    "add_network": "formulations.relu",
    "argmax": "argmax_solver",
    "argmin": "argmax_solver",
    "export_onnx": "qnetwork",
    "london_underground": "formulations.actions.routing",
    "solve_model": "solvers.model",
    "to_network": "conversion",
}

__all__ = [
    "ActionSpace",
    "ArgmaxResult",
    "ArgmaxSolver",
    "Box",
    "BudgetTopK",
    "Capacity",
    "CertificationError",
    "ContradictionError",
    "DQNAgent",
    "DQNConfig",
    "FactoredValidity",
    "Intersection",
    "Network",
    "NetworkError",
    "Product",
    "QNetwork",
    "Routing",
    "ScalingWarning",
    "Scheduling",
    "SolverUnavailableError",
    "add_network",
    "argmax",
    "argmin",
    "export_onnx",
    "london_underground",
    "solve_model",
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
