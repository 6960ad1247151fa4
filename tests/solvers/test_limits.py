"""Time limits and memory with many actions, and that work done in parts gives the same answers."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from milp_rl.argmax_solver import ArgmaxSolver, argmax
from milp_rl.formulations.networks.action_value import NetworkValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces import BudgetTopK, Capacity
from milp_rl.solvers import auto, neighbours
from milp_rl.solvers.auto import is_small
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax, node_bounds, tree
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.scip import ScipSolver
from milp_rl.solvers.neighbours import neighbourhood, neighbours_above
from milp_rl.solvers.options import SolveOptions

EXACT = SolveOptions()
MANY = """
import json, resource, sys, time
import numpy as np
from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.formulations.spaces import BudgetTopK
from milp_rl.formulations.networks.network import Network

def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB

n, rng = 20_000, np.random.default_rng(0)
shapes = [(16, n + 10), (32, 16), (1, 32)]
weights = [rng.uniform(-1, 1, shape) / np.sqrt(shape[1]) for shape in shapes]
network = Network.from_arrays(weights, [rng.uniform(-0.1, 0.1, len(w)) for w in weights])
before, begin = most_memory(), time.perf_counter()
solver = ArgmaxSolver(network, BudgetTopK(n, 50), solver=sys.argv[1], time_limit=3.0)
built = time.perf_counter() - begin
result = solver.solve(np.zeros(10))
found = [result.status, result.value, result.bound, float(result.action.sum())]
print(json.dumps([*found, built, time.perf_counter() - begin - built, most_memory() - before]))
"""


@pytest.mark.parametrize(
    ("space", "solver"),
    [
        (BudgetTopK(2000, 50, costs=np.arange(2000) % 7 + 1, budget=150), "auto"),
        (Capacity(np.arange(400) % 5 + 2, np.arange(40) % 6 + 2) & BudgetTopK(400, 30), "auto"),
        (BudgetTopK(40, 5, costs=np.ones(40), budget=9), "enumeration"),
    ],
)
def test_setting_up_counts_towards_the_limit(space, solver):
    """Without a look at the clock, drawing and counting take the first two over two seconds."""
    rng = np.random.default_rng(0)
    network = Network.from_arrays(
        [rng.normal(size=(16, space.n_actions)), rng.normal(size=(1, 16))], [np.zeros(16), [0.0]]
    )
    begin = time.perf_counter()
    result = argmax(network, None, space, solver=solver, time_limit=0.4)
    assert time.perf_counter() - begin < 1.9
    assert result.status == "feasible"
    assert space.violations(result.action) == []
    assert result.bound > result.value


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in Linux's unit")
@pytest.mark.parametrize("solver", ["branch_and_bound", "auto", "highs"])
def test_a_limit_of_three_seconds_holds_with_20000_actions(solver):
    done = subprocess.run(
        [sys.executable, "-c", MANY, solver], capture_output=True, text=True, check=True
    )
    status, value, bound, chosen, built, wall, grown = json.loads(done.stdout)
    assert status in ("feasible", "optimal")
    assert value <= bound
    assert chosen <= 50
    assert built < 10
    assert wall < 3.6 + 1.0  # for a machine that does other things
    assert grown < 1.0


@pytest.mark.slow
def test_gurobi_without_a_full_licence_refuses_many_actions_soon(random_network):
    network = random_network(np.random.default_rng(0), 20_000, (16,))
    solver = ArgmaxSolver(network, BudgetTopK(20_000, 5), solver="gurobi", time_limit=30.0)
    refused, begin = "", time.perf_counter()
    try:
        assert solver.solve(np.zeros(0)).status in ("feasible", "optimal")
    except SolverUnavailableError as error:
        refused = str(error)
    if refused:  # else there is a full licence
        assert "variables" in refused
        assert time.perf_counter() - begin < 20


def all_neighbours(action):
    """Every action one flip away, then every one a swap away."""
    found = []
    for i in range(len(action)):
        found.append(action.copy())
        found[-1][i] ^= 1
    for one in np.flatnonzero(action):
        for zero in np.flatnonzero(action == 0):
            found.append(action.copy())
            found[-1][[one, zero]] = 0, 1
    return np.array(found)


@pytest.mark.parametrize("entries", [1, 40, 4_000_000])
@pytest.mark.parametrize("chosen", [0, 4, 9])
def test_neighbours_are_valued_in_parts_as_they_are_one_by_one(
    entries, chosen, random_network, monkeypatch
):
    monkeypatch.setattr(neighbours, "_ENTRIES", entries)
    rng = np.random.default_rng(chosen)
    problem = ArgmaxProblem(random_network(rng, 9, (6, 5)), BudgetTopK(9, 9))
    action = np.zeros(9, dtype=np.int8)
    action[rng.permutation(9)[:chosen]] = 1
    others = all_neighbours(action)
    assert np.array_equal(neighbourhood(action, np.arange(len(others))), others)
    values = problem.network.forward(others)[:, 0]
    for limit in (-np.inf, np.median(values), np.inf):
        rows, found = neighbours_above(problem, action, limit)
        tied = np.isclose(values, limit, rtol=1e-12)
        assert np.array_equal(rows[~tied[rows]], np.flatnonzero((values > limit) & ~tied))
        assert found == pytest.approx(values[rows], rel=1e-12, abs=1e-12)


def test_of_very_many_swaps_a_part_is_looked_at_always_the_same(random_network, monkeypatch):
    monkeypatch.setattr(neighbours, "_MOST_SWAPS", 30)
    problem = ArgmaxProblem(random_network(np.random.default_rng(0), 30, (6,)), BudgetTopK(30, 9))
    action = np.zeros(30, dtype=np.int8)
    action[:9] = 1
    rows, values = neighbours_above(problem, action, -np.inf)
    again, _ = neighbours_above(problem, action, -np.inf)
    assert np.array_equal(rows, again)
    assert np.array_equal(rows[:30], np.arange(30))  # all flips
    assert 15 < len(rows) - 30 <= 30
    assert len(np.unique(rows)) == len(rows)
    others = neighbourhood(action, rows)
    assert (others[30:].sum(axis=1) == 9).all()
    assert values == pytest.approx(problem.network.forward(others)[:, 0], rel=1e-12)


@pytest.mark.parametrize(
    "space", [BudgetTopK(12, 4), Capacity([2, 3, 4, 2, 5, 6, 3, 2, 4, 3, 2, 5], [5, 6, 3])]
)
@pytest.mark.parametrize("split", ["parts", "few_probes", "small_pool", "turns"])
def test_a_search_in_small_parts_finds_the_same_optima(split, space, random_network, monkeypatch):
    if split == "parts":
        monkeypatch.setattr(node_bounds, "_ENTRIES", 50)
    if split == "few_probes":
        monkeypatch.setattr(node_bounds, "_PROBED_ENTRIES", 36)
    if split == "small_pool":
        monkeypatch.setattr(tree, "_NODES_PER_ROUND", 2)
        monkeypatch.setattr(tree, "_POOL_BYTES", 0)
        monkeypatch.setattr(node_bounds, "_PROBED_ENTRIES", 12)
    if split == "turns":
        monkeypatch.setattr(tree, "_ACTIONS_PER_ROUND", 60)
    rng = np.random.default_rng(3)
    network = random_network(rng, 15, (16, 16))
    states = rng.normal(size=(6, 3))
    results = BranchAndBoundArgmax(network, space).solve(states, EXACT)
    assert sum(r.nodes for r in results) > 60
    for result, best in zip(
        results, EnumerationArgmax(network, space).solve(states, EXACT), strict=True
    ):
        assert result.status == "optimal"
        assert result.value == pytest.approx(best.value, rel=1e-9)
        assert result.value <= result.bound <= result.value + 2e-6 * max(1, abs(result.value))


def test_a_full_pool_is_searched_by_diving(random_network, monkeypatch):
    def most_rows(pool_bytes):
        monkeypatch.setattr(tree, "_NODES_PER_ROUND", 4)
        monkeypatch.setattr(tree, "_POOL_BYTES", pool_bytes)
        sizes = []
        put = tree.Tree._put

        def counted(self, nodes):
            rows = put(self, nodes)
            sizes.append(len(self._pool) - len(self._unused))
            return rows

        with monkeypatch.context() as patched:
            patched.setattr(tree.Tree, "_put", counted)
            result = BranchAndBoundArgmax(network, space).solve_one(np.zeros(4), EXACT)
        assert result.status == "optimal"
        return max(sizes), result.value

    network, space = random_network(np.random.default_rng(1), 22, (24, 24)), BudgetTopK(18, 6)
    free, value = most_rows(2**28)
    dived, same = most_rows(0)
    assert dived < free / 2
    assert same == pytest.approx(value, rel=1e-9)


class SlowToDraw(BudgetTopK):
    """Takes its time to draw, and has no closed form for its size."""

    counts_quickly = False

    def sample(self, rng, n=1, *, maximal=False):
        if n > 1:
            time.sleep(0.02 * n)
        return super().sample(rng, n, maximal=maximal)


def test_the_time_limit_covers_the_look_at_the_size_of_the_set(random_network):
    network = random_network(np.random.default_rng(0), 44, (64, 64))
    solver = ArgmaxSolver(network, SlowToDraw(40, 20), time_limit=1.0)
    begin = time.perf_counter()
    results = solver.solve_batch(np.random.default_rng(1).normal(size=(2, 4)), workers=1)
    assert time.perf_counter() - begin < 4
    assert all(r.value <= r.bound for r in results)


def test_a_set_is_small_if_actions_repeat_and_the_list_fits(monkeypatch):
    assert is_small(BudgetTopK(30, 3))
    assert not is_small(BudgetTopK(60, 6))
    assert is_small(SlowToDraw(14, 2))
    assert is_small(SlowToDraw(60, 6), time.perf_counter()) is None  # no time to tell
    monkeypatch.setattr(auto, "_LIST_BYTES", 30_000)
    assert not is_small(BudgetTopK(30, 3))


def test_without_time_the_best_known_action_is_returned(random_network):
    rng = np.random.default_rng(0)
    network, space = random_network(rng, 12, (8,)), BudgetTopK(10, 4)
    incumbents, states = Incumbents(space), rng.normal(size=(3, 2))
    networks = NetworkValue(network, 10).at_states(states)
    built = incumbents.build(networks, deadline=time.perf_counter())
    for state, action in zip(states, built, strict=True):
        inputs = np.concatenate([incumbents.sample, np.tile(state, (256, 1))], axis=1)
        own = network.forward(np.concatenate([action, state]))[0]
        assert own == pytest.approx(network.forward(inputs).max())


def test_scip_stops_while_its_model_is_written():
    model = BudgetTopK(10, 3).linear_model
    solution = ScipSolver().solve(model, SolveOptions(time_limit=1e-9))
    assert solution.status == "no_solution"
    assert solution.bound == np.inf


def test_greedy_building_takes_the_best_addition_every_time(random_network):
    rng = np.random.default_rng(2)
    network, space = random_network(rng, 14, (9, 8)), BudgetTopK(11, 5)
    states = rng.normal(size=(5, 3))
    networks = NetworkValue(network, 11).at_states(states)
    for state, action in zip(states, Incumbents(space).build(networks), strict=True):
        own = np.zeros(11)
        while own.sum() < 5:
            grown = own + np.eye(11)[own == 0]
            values = network.at_state(state).forward(grown)[:, 0]
            if values.max() <= network.at_state(state).forward(own)[0]:
                break
            own = grown[values.argmax()]
        assert np.array_equal(action, own)
