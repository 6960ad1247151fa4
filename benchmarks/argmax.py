"""Time one argmax of the demo's trained network, side by side with how it is done elsewhere.

Run `make demo` first, then `make bench`. All ways solve the same states, those that the trained
policy visits, one after the other in one process on one thread:

- milp-rl with HiGHS and with Gurobi, each formulation and bound, gap 0;
- published style: a gurobipy model built from scratch for every state, M = 1e5, gap 2%;
- OMLT's default path: its big-M formulation with its own interval bounds, through Pyomo, solved
  by appsi_highs.

Prints a table with ratios and writes benchmarks/argmax.csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import gurobipy as gp
import numpy as np
import pandas as pd
import pyomo.environ as pyo
from omlt import OmltBlock
from omlt.neuralnet import ReluBigMFormulation
from pyomo.common.log import LoggingIntercept
from pyomo.contrib.appsi.solvers import Highs

import milp_rl as mr
from milp_rl.envs import CapacityBandit, CapacityInstance
from milp_rl.formulations.relu import omlt_definition

BIG_M = 1e5
Solve = Callable[[np.ndarray], float]


def visited_states(env: CapacityBandit, solver: mr.ArgmaxSolver, n: int) -> np.ndarray:
    """The states of episodes under the trained policy."""
    states: list[np.ndarray] = []
    episode = 0
    while len(states) < n:
        state, _ = env.reset(seed=episode)
        done = False
        while not done:
            states.append(np.array(state, dtype=float))
            action = solver.solve(state).action
            state, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
        episode += 1
    rng = np.random.default_rng(0)
    return np.array(states)[rng.permutation(len(states))[:n]]


def published_style(network: mr.Network, space: mr.Capacity) -> Solve:
    """A gurobipy model from scratch, every neuron with M = 1e5, gap 2%."""
    env = gp.Env(params={"OutputFlag": 0})

    def solve(state: np.ndarray) -> float:
        with gp.Model(env=env) as model:
            model.Params.MIPGap = 0.02
            model.Params.Threads = 1
            arms, workers = range(space.n_actions), range(len(space.capacities))
            act = model.addVars(arms, vtype=gp.GRB.BINARY)
            serve = model.addVars(arms, workers, vtype=gp.GRB.BINARY)
            model.addConstrs(serve.sum(j, "*") == act[j] for j in arms)
            model.addConstrs(
                gp.quicksum(space.costs[j] * serve[j, w] for j in arms) <= space.capacities[w]
                for w in workers
            )
            values = [act[j] for j in arms] + [float(s) for s in state]
            for layer in network.hidden:
                n = len(layer.bias)
                z = model.addVars(n, lb=0.0)
                on = model.addVars(n, vtype=gp.GRB.BINARY)
                for i in range(n):
                    before = layer.bias[i] + gp.quicksum(
                        w * v for w, v in zip(layer.weight[i], values, strict=True)
                    )
                    model.addConstr(z[i] >= before)
                    model.addConstr(z[i] <= before + BIG_M * (1 - on[i]))
                    model.addConstr(z[i] <= BIG_M * on[i])
                values = [z[i] for i in range(n)]
            output = gp.quicksum(
                w * v for w, v in zip(network.output.weight[0], values, strict=True)
            )
            model.setObjective(output + network.output.bias[0], gp.GRB.MAXIMIZE)
            model.optimize()
            action = [round(act[j].X) for j in arms]
            return float(network.forward([*action, *state])[0])

    return solve


def omlt_default(network: mr.Network, space: mr.Capacity) -> Solve:
    """OMLT's big-M formulation with its own bounds, Pyomo and appsi_highs, built for each state."""

    def solve(state: np.ndarray) -> float:
        m = pyo.ConcreteModel()
        actions = space.add_to(m)
        low = np.concatenate([np.zeros(space.n_actions), state])
        high = np.concatenate([np.ones(space.n_actions), state])
        m.network = OmltBlock()
        with LoggingIntercept(module="pyomo.core"):  # OMLT starts its inputs at 0, out of bounds
            m.network.build_formulation(ReluBigMFormulation(omlt_definition(network, low, high)))
        m.link = pyo.Constraint(
            range(network.n_inputs),
            rule=lambda m, i: (
                m.network.inputs[i]
                == (actions[i] if i < len(actions) else float(state[i - len(actions)]))
            ),
        )
        m.objective = pyo.Objective(expr=m.network.outputs[0], sense=pyo.maximize)
        highs = Highs()
        highs.highs_options = {"threads": 1}
        highs.solve(m)
        action = [round(pyo.value(a)) for a in actions]
        return float(network.forward([*action, *state])[0])

    return solve


def ours(network: mr.Network, space: mr.Capacity, **options: str) -> Solve:
    """A persistent ArgmaxSolver, gap 0."""
    solver = mr.ArgmaxSolver(network, space, **options)

    def solve(state: np.ndarray) -> float:
        result = solver.solve(state)
        if result.status != "optimal":
            raise RuntimeError(f"{options}: {result}")
        return result.value

    return solve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--demo", type=Path, default=Path("demo"), help="folder of the demo's files"
    )
    parser.add_argument("--states", type=int, default=100, help="states to time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/argmax.csv"))
    arguments = parser.parse_args()
    if not (arguments.demo / "q.onnx").exists():
        parser.error(f"{arguments.demo}/q.onnx is missing; run `make demo` first")

    network = mr.to_network(arguments.demo / "q.onnx")
    space = mr.ActionSpace.from_json(arguments.demo / "space.json")
    env = CapacityBandit(CapacityInstance.from_json(arguments.demo / "instance.json"))
    states = visited_states(env, mr.ArgmaxSolver(network, space), arguments.states)
    ways: dict[str, Solve] = {
        f"milp-rl, {solver}, {formulation}, {bounds} bounds, gap 0": ours(
            network, space, solver=solver, formulation=formulation, bounds=bounds
        )
        for solver in ("highs", "gurobi")
        for formulation, bounds in (
            ("bigm", "linear"),
            ("bigm", "interval"),
            ("bigm", "lp"),
            ("partition", "linear"),
        )
    }
    ways["milp-rl, enumeration, gap 0"] = ours(network, space, solver="enumeration")
    ways["published style: gurobipy from scratch, M = 1e5, gap 2%"] = published_style(
        network, space
    )
    ways["OMLT default: own bounds, Pyomo, appsi_highs"] = omlt_default(network, space)

    rows = []
    best = [ours(network, space, solver="enumeration")(state) for state in states]
    for name, solve in ways.items():
        solve(states[0])
        times, short = [], 0.0
        for state, optimum in zip(states, best, strict=True):
            begin = time.perf_counter()
            value = solve(state)
            times.append((time.perf_counter() - begin) * 1e3)
            short = max(short, optimum - value)
        rows.append((name, np.mean(times), np.median(times), np.max(times), short))
    table = pd.DataFrame(rows, columns=["way", "mean ms", "median ms", "max ms", "worst shortfall"])
    base = table.loc[table["way"].str.startswith("published"), "mean ms"].iloc[0]
    table["times faster than published style"] = base / table["mean ms"]
    default = mr.ArgmaxSolver(network, space)
    unstable = np.mean([default.solve(state).unstable for state in states])
    print(
        f"{len(states)} states, {space.n_actions} arms, hidden"
        f" {'-'.join(str(len(layer.bias)) for layer in network.hidden)},"
        f" {unstable:.1f} unstable neurons on average"
    )
    print(table.round(3).to_string(index=False))
    table.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
