"""Problems of the benchmarks: trained and random Q-networks over the action sets of the domains.

The trained networks lie in `benchmarks/networks`; `train_networks.py` made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import milp_rl as mr
from milp_rl.envs import make_bandit
from milp_rl.formulations.networks.onnx_writer import write_onnx

NETWORKS = Path(__file__).parent / "networks"
DOMAINS = ("multiple_interventions", "path", "scheduling", "capacity")
SIZES = ((20, 5), (40, 10), (100, 20))
N_STATES = 32


@dataclass(frozen=True, eq=False)
class Problem:
    """An argmax to be solved in several states."""

    kind: str  # trained or random
    domain: str
    n_arms: int
    hidden: tuple[int, ...]
    network: mr.Network
    space: mr.ActionSpace
    states: np.ndarray
    warm_up: np.ndarray  # other states, solved before the clock runs

    @property
    def name(self) -> str:
        widths = "-".join(map(str, self.hidden))
        return f"{self.kind} {self.domain.replace('_', ' ')} J={self.n_arms} {widths}"

    def write(self, folder: Path) -> None:
        """Write it as an instance of `milp-rl compare`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_onnx(self.network, folder / "q.onnx")
        self.space.to_json(folder / "space.json")
        np.savetxt(folder / "states.csv", self.states, fmt="%.17g", delimiter=",")


def random_network(state_dim: int, n_actions: int, hidden: tuple[int, ...]) -> mr.Network:
    generator = torch.Generator().manual_seed(1)
    return mr.to_network(mr.QNetwork(state_dim, n_actions, hidden, generator=generator))


def _states(env: Any) -> np.ndarray:
    found = env.informative_states(np.random.default_rng(0), N_STATES).astype(float)
    return found[np.random.default_rng(0).permutation(len(found))[: 2 * N_STATES]]


def trained(domain: str, n_arms: int, budget: int, hidden: tuple[int, ...]) -> Problem:
    env = make_bandit(domain, n_arms, budget, seed=0)
    file = NETWORKS / f"{domain}-J{n_arms}-{'-'.join(map(str, hidden))}.onnx"
    return _problem(
        "trained", domain, hidden, mr.to_network(file), env.action_space_block(), _states(env)
    )


def _problem(
    kind: str,
    domain: str,
    hidden: tuple[int, ...],
    network: mr.Network,
    space: mr.ActionSpace,
    states: np.ndarray,
) -> Problem:
    n_arms = states.shape[1]
    first, second = states[:N_STATES], states[N_STATES:]
    return Problem(kind, domain, n_arms, hidden, network, space, first, second)


def random(domain: str, n_arms: int, budget: int, hidden: tuple[int, ...]) -> Problem:
    if domain == "budget":
        space: mr.ActionSpace = mr.BudgetTopK(n_arms, budget)
        states = np.random.default_rng(0).integers(0, 4, size=(2 * N_STATES, n_arms)) / 3.0
    else:
        env = make_bandit(domain, n_arms, budget, seed=0)
        space = env.action_space_block()
        states = _states(env)
    network = random_network(states.shape[1], space.n_actions, hidden)
    label = f"budget k={budget}" if domain == "budget" else domain
    return _problem("random", label, hidden, network, space, states)


def all_problems() -> list[Problem]:
    """Everything but routes over 100 stations, of which no network was trained."""
    sizes = [(d, n, b) for d in DOMAINS for n, b in SIZES if (d, n) != ("path", 100)]
    found = [trained(d, n, b, (16, 32)) for d, n, b in sizes]
    found += [trained(d, 20, 5, h) for d in DOMAINS for h in ((64, 64), (128, 128))]
    found += [random(d, 20, 5, (16, 32)) for d in DOMAINS]
    # Larger random networks take every exact method minutes; how times grow is in growth.py.
    found += [random("budget", 20, 5, h) for h in ((16, 32), (64, 64), (128, 128))]
    found += [random("budget", 40, k, (16, 32)) for k in (8, 10)]
    return found
