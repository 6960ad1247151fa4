"""All solvers and formulations against enumeration, over random networks and spaces.

``MILP_RL_FUZZ=20000 pytest tests/solvers/test_differential.py`` is the long run of
docs/reliability.md. What it found is kept below as examples.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import warnings

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import milp_rl as mr
from milp_rl.formulations.networks.network import Network
from milp_rl.proofs import check

CASES = int(os.environ.get("MILP_RL_FUZZ", "200"))
PROVEN = "all" if "MILP_RL_FUZZ" in os.environ else "branch_and_bound"
TOLERANCE = 1e-6
MILPS = ["highs", "gurobi"] + (["scip"] if importlib.util.find_spec("pyscipopt") else [])
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def spaces(draw: st.DrawFn, depth: int = 1) -> mr.ActionSpace:
    """A space of at most eight actions: a block, an intersection or a product."""
    kind = draw(st.sampled_from(["block", "block", "and", "times"] if depth else ["block"]))
    if kind == "times":
        space = draw(spaces(depth=0)) * draw(spaces(depth=0))
        assume(space.n_actions <= 8)
        return space
    n = draw(st.integers(1, 8))
    space = draw(block(n))
    if kind == "and":
        space = space & draw(block(space.n_actions))
    return space


KINDS = [
    "budget",
    "costs",
    "capacity",
    "scheduling",
    "path",
    "matching",
    "precedence",
    "arcs",
    "box",
]


@st.composite
def block(draw: st.DrawFn, n: int) -> mr.ActionSpace:
    rng = np.random.default_rng(draw(SEEDS))
    kind = draw(st.sampled_from(KINDS))
    if kind == "budget":
        return mr.BudgetTopK(n, int(rng.integers(0, n + 1)), exactly=bool(rng.integers(2)))
    if kind == "costs":
        costs = rng.integers(0, 6, n) if rng.integers(2) else 3 * rng.random(n)
        return mr.BudgetTopK(n, n, costs=costs, budget=float(rng.random() * costs.sum()))
    if kind == "capacity":
        return mr.Capacity(rng.integers(1, 5, n), rng.integers(1, 8, rng.integers(1, 4)))
    if kind == "scheduling":
        slots = int(rng.integers(1, 5))
        workers, arms = rng.random((2, slots)) < 0.7, rng.random((n, slots)) < 0.6
        return mr.Scheduling(workers, arms, needs=int(rng.integers(1, 3)))
    if kind == "path":
        graph = nx.gnm_random_graph(n, 2 * n, seed=int(rng.integers(1000)))
        return mr.Routing(graph, 0, max_length=int(rng.integers(0, 7)))
    if kind == "matching":
        left = int(rng.choice([i for i in range(1, n + 1) if n % i == 0]))
        eligible = rng.random((left, n // left)) < 0.8
        return mr.Matching(eligible, min_pairs=int(rng.integers(0, 2)))
    if kind == "precedence":
        pairs = rng.integers(0, n, (2 * n, 2))
        return mr.Precedence(n, pairs[pairs[:, 0] < pairs[:, 1]])
    if kind == "arcs":
        pairs = [(u, v) for u, v in itertools.permutations(range(5), 2) if u != 4 and v]
        return mr.SimplePath(nx.DiGraph(rng.permutation(pairs)[:n].tolist()), 0, 4)
    rows = int(rng.integers(1, 3))
    matrix = rng.integers(-2, 4, (rows, n))
    right = rng.integers(0, 5, rows)
    return mr.Box([0] * n, [1] * n, matrix=matrix, right=right, binary=range(n))


@st.composite
def networks(draw: st.DrawFn, n_inputs: int) -> Network:
    """Depth 1 to 4; dead, saturated and duplicate neurons, zero layers, scales 1e-6 to 1e6."""
    rng = np.random.default_rng(draw(SEEDS))
    widths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    sizes = [n_inputs, *widths, 1]
    weights = [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(size=b) * 0.5 for b in sizes[1:]]
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        change(weights, biases, rng)
    return Network.from_arrays(weights, biases)


def _dead(weights, biases, rng):
    biases[0][rng.integers(len(biases[0]))] = -100.0


def _saturated(weights, biases, rng):
    biases[0][rng.integers(len(biases[0]))] = 100.0


def _duplicate(weights, biases, rng):
    weights[0][-1], biases[0][-1] = weights[0][0], biases[0][0]


def _opposite(weights, biases, rng):
    weights[0][-1], biases[0][-1] = -weights[0][0], -biases[0][0]


def _zero_layer(weights, biases, rng):
    weights[rng.integers(len(weights))][:] = 0.0


def _ties(weights, biases, rng):
    for values in (*weights, *biases):
        values[:] = np.round(values)


def _scaled(weights, biases, rng):
    i, scale = rng.integers(len(weights)), 10.0 ** rng.uniform(-6, 6)
    weights[i] *= scale
    biases[i] *= scale


def _one_large(weights, biases, rng):
    layer = weights[rng.integers(len(weights))]
    layer[rng.integers(layer.shape[0]), rng.integers(layer.shape[1])] *= 10.0 ** rng.uniform(-6, 6)


CHANGES = [_dead, _saturated, _duplicate, _opposite, _zero_layer, _ties, _scaled, _one_large]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Network, mr.ActionSpace, np.ndarray]:
    try:
        space = draw(spaces())
    except ValueError:  # a block that refuses its parameters, such as an empty set
        assume(False)
    state = np.random.default_rng(draw(SEEDS)).normal(size=draw(st.integers(0, 2)))
    return draw(networks(space.n_actions + len(state))), space, state


@pytest.mark.slow
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize="MILP_RL_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(problem=problems(), choice=SEEDS)
def test_every_solver_finds_the_optimum(problem, choice):
    network, space, state = problem
    rng = np.random.default_rng(choice)
    actions = space.enumerate()
    settings = [
        {"solver": "enumeration"},
        {"solver": "auto"},
        {"solver": "branch_and_bound"},
        *(
            {
                "solver": name,
                "formulation": str(rng.choice(["bigm", "partition"])),
                "partitions": int(rng.integers(1, 4)),
                "bounds": str(rng.choice(["interval", "linear", "lp"])),
                "one_sided": bool(rng.integers(2)),
            }
            for name in MILPS
        ),
    ]
    for setting in settings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mr.ScalingWarning)
            solver = mr.ArgmaxSolver(network, space, **setting)
        result = solver.solve_batch(state[None], workers=1)[0]
        if not len(actions):
            assert result.status == "infeasible", setting
            continue
        inputs = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
        values = network.forward(inputs)
        best, size = values.max(), max(1e-300, np.abs(values).max())
        slack = TOLERANCE * (best - values.min()) + 1e-12 * size  # and what float64 rounds
        assert result.action is not None, (setting, result)
        assert space.violations(result.action) == [], (setting, result)
        value = network.forward(np.concatenate([result.action, state]))[0]
        assert abs(value - result.value) <= 1e-12 * max(1.0, abs(value)), (setting, result)
        assert result.bound >= best - slack, (setting, result, best)
        if result.status == "optimal":
            assert result.value >= best - slack, (setting, result, best)
        else:
            assert result.status == "feasible", (setting, result)
        if PROVEN in ("all", setting["solver"]):
            proof = solver.prove(state, result)
            verdict = check(network, space, state, proof)
            assert verdict.verified, (setting, result, verdict)
            assert proof.bound >= best - 1e-12 * size, (setting, result, best)
