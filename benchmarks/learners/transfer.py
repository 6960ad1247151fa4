"""A network trained with 20 arms, played with 50 and 100 without training, and trained there.

The network is equivariant: arms differ by their features alone. SysAdmin is that of the planning
competition (20 computers: instance 4; 50: instance 10; 100: an instance drawn here, with three
connections of each computer). In the capacity domain each arm shows, beside its level, what it
costs, earns and responds to, without which no such network can tell arms apart. Writes
transfer.csv, whose rows are not made again. `python -m benchmarks.learners.transfer --seed 0`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import milp_rl as mr
from milp_rl.dqn import NormalisedQNetwork
from milp_rl.envs import Arms, CapacityBandit, CapacityInstance
from milp_rl.evaluation import evaluate
from milp_rl.formulations.spaces.base import ActionSpace

from . import records
from .__main__ import SEEDS, setting, versions

RESULTS = Path(__file__).parent / "transfer.csv"
TRAINED = 20
SIZES = (20, 50, 100)
HORIZONS = {"sysadmin": 40, "capacity": 20}


class CapacityByFeatures(gym.Env):
    """The capacity domain with the arms' features in the observation, and without its model."""

    def __init__(self, n_arms: int, n_workers: int) -> None:
        instance = CapacityInstance.generate(n_arms, n_workers, seed=0)
        self.inner = CapacityBandit(instance)
        self.static = np.column_stack(
            [instance.costs, instance.rewards, instance.acting, instance.passive]
        )
        self.arm_layout = Arms(n_arms, 1 + self.static.shape[1])
        self.action_space = self.inner.action_space
        shape = (self.arm_layout.state_dim,)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape, np.float32)

    def action_space_block(self, state: Any) -> ActionSpace:
        return self.inner.action_space_block()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        levels, info = self.inner.reset(seed=seed)
        return self._seen(levels), info

    def step(self, action: Any) -> Any:
        levels, *rest = self.inner.step(action)
        return self._seen(levels), *rest

    def _seen(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        return np.column_stack([levels, self.static]).ravel().astype(np.float32)


def sysadmin(n: int) -> gym.Env:
    """Return SysAdmin with n computers."""
    from milp_rl.envs.rddl import from_rddl

    problem, known = "SysAdmin_MDP_ippc2011", {20: ("4", 4), 50: ("10", 5)}
    if n in known:
        instance, most = known[n]
        return from_rddl(problem, instance, max_actions=most)
    from rddlrepository.core.manager import RDDLRepoManager

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "instance.rddl")
        file.write_text(sysadmin_instance(n, np.random.default_rng(n)))
        domain = RDDLRepoManager().get_problem(problem).get_domain()
        return from_rddl(domain, str(file), max_actions=n // 10)


def sysadmin_instance(n: int, rng: np.random.Generator) -> str:
    """Return an instance in RDDL, in which each computer is connected to three others."""
    names = [f"c{i + 1}" for i in range(n)]
    ends = [rng.choice(np.delete(np.arange(n), i), 3, replace=False) for i in range(n)]
    connected = [f"CONNECTED(c{i + 1},c{j + 1});" for i, own in enumerate(ends) for j in own]
    return f"""non-fluents drawn {{
  domain = sysadmin_mdp;
  objects {{ computer : {{{",".join(names)}}}; }};
  non-fluents {{ REBOOT-PROB = 0.01; {" ".join(connected)} }};
}}
instance drawn_{n} {{
  domain = sysadmin_mdp;
  non-fluents = drawn;
  init-state {{ {" ".join(f"running({name});" for name in names)} }};
  max-nondef-actions = 1;
  horizon = 40;
  discount = 1.0;
}}
"""


def environment(family: str, n: int) -> gym.Env:
    if family == "sysadmin":
        return sysadmin(n)
    return CapacityByFeatures(n, {20: 5, 50: 12, 100: 20}[n])


class Taken:
    """The best actions of a network that was trained with another number of arms."""

    def __init__(self, network: NormalisedQNetwork, env: gym.Env, n: int) -> None:
        space = env.get_wrapper_attr("action_space_block")(env.reset(seed=0)[0])
        self.solver = mr.ArgmaxSolver(network.for_arms(n), space)

    def act(self, state: Any) -> NDArray[Any]:
        return self.solver.solve(state).action


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", choices=HORIZONS, default=list(HORIZONS))
    parser.add_argument("--arms", nargs="+", type=int, default=list(SIZES), choices=SIZES)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000, help="of the environment")
    parser.add_argument(
        "--set", nargs="+", type=setting, default=[], metavar="FIELD=JSON", help="of DQNConfig"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # What the defaults were when the first of them were trained.
    before = {"learning_rate": 1e-3, "average_decay": 0.0}
    own = {"architecture": "equivariant", **before, **dict(arguments.set)}
    config = mr.DQNConfig(**own)
    for family in arguments.family:
        for seed in arguments.seed:
            small: NormalisedQNetwork | None = None
            for n in sorted({TRAINED, *arguments.arms}):
                for trained in sorted({TRAINED, n}):
                    key = {
                        "domain": f"{family}{n}",
                        "learner": f"trained with {trained} arms",
                        "seed": seed,
                        "steps": arguments.steps,
                    }
                    if records.has(arguments.results, **key):
                        continue
                    started = time.process_time()
                    network = small if trained == TRAINED else None
                    if network is None:
                        agent = mr.DQNAgent(environment(family, trained), config, seed=seed)
                        network = agent.learn(arguments.steps).network
                        small = network if trained == TRAINED else small
                    seconds = time.process_time() - started
                    env = environment(family, n)
                    played = evaluate(env, {"": Taken(network, env, n)}, seeds=SEEDS)
                    returns = played["reward"] * HORIZONS[family]
                    row = key | {
                        "mean": round(returns.mean(), 4),
                        "standard_error": round(returns.sem(), 4),
                        "episodes": len(returns),
                        "cpu_seconds": round(seconds, 1),
                        "ms_per_decision": round(played["ms_per_decision"].mean(), 3),
                        "versions": versions(),
                    }
                    records.add(arguments.results, row)
                    print(f"{key['domain']} {key['learner']} {seed}: {row['mean']}", flush=True)


if __name__ == "__main__":
    main()
