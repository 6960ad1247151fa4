"""Every solver, formulation and bound against brute force, and against each other."""

import itertools
import pickle

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces import (
    BudgetTopK,
    Capacity,
    FactoredValidity,
    Routing,
    Scheduling,
)
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.milp.argmax import MilpArgmax, MilpOptions
from milp_rl.solvers.milp.gurobi import GurobiSolver
from milp_rl.solvers.milp.highs import HighsSolver
from milp_rl.solvers.options import SolveOptions

EXACT = SolveOptions()
SOLVERS = {"highs": HighsSolver(), "gurobi": GurobiSolver()}
CASES = list(
    itertools.product(SOLVERS, ("bigm", "partition"), ("interval", "linear", "lp"), (False, True))
)


def random_space(rng: np.random.Generator):
    n = int(rng.integers(2, 9))
    kind = rng.integers(7)
    if kind == 0:
        return BudgetTopK(n, int(rng.integers(0, n + 1)))
    if kind == 1:
        return BudgetTopK(n, int(rng.integers(0, n + 1)), exactly=True)
    if kind == 2:
        return BudgetTopK(n, n, costs=rng.uniform(0.5, 3, n), budget=float(n) / 2)
    if kind == 3:
        return Capacity(rng.integers(2, 7, n), rng.integers(2, 8, 2))
    if kind == 4:
        return Scheduling(rng.random((2, 4)) < 0.6, rng.random((n, 4)) < 0.6, needs=2, budget=3)
    if kind == 5:
        return Routing(nx.gnp_random_graph(n, 0.4, seed=int(rng.integers(99))), 0, 5, 3)
    pair = FactoredValidity({"how": ["a", "b"], "who": ["c", "d"]}, forbidden=[("a", "c")])
    return pair & BudgetTopK(4, 2)


@pytest.mark.parametrize("seed", range(240))
def test_all_solvers_give_the_brute_force_optimum(seed, random_network, trained_network):
    rng = np.random.default_rng(seed)
    space = random_space(rng)
    state_dim = int(rng.integers(0, 4))
    hidden = tuple(int(h) for h in rng.integers(1, 10, size=rng.integers(0, 4)))
    make = trained_network if seed % 4 == 0 and hidden else random_network
    network = make(rng, space.n_actions + state_dim, hidden)
    state = rng.normal(size=state_dim)
    best = EnumerationArgmax(network, space).solve_one(state, EXACT)
    assert best.status == "optimal"
    for case in rng.permutation(len(CASES))[:5]:  # every case some 50 times in all
        solver, formulation, bounds, one_sided = CASES[case]
        result = MilpArgmax(
            network,
            space,
            SOLVERS[solver],
            MilpOptions(formulation, int(rng.integers(1, 4)), bounds, one_sided),
        ).solve_one(state, EXACT, space.sample(rng)[0] if rng.random() < 0.5 else None)
        assert result.status == "optimal"
        assert result.bound - result.value <= result.tolerance
        assert space.violations(result.action) == []
        assert result.value == network.at_state(state).forward(result.action)[0]
        assert result.value == pytest.approx(best.value, rel=1e-6, abs=1e-6)
        assert result.bound >= best.value - 1e-9
    # and without any MILP solver
    native = BranchAndBoundArgmax(network, space).solve_one(state, EXACT)
    assert native.status == "optimal"
    assert space.violations(native.action) == []
    assert native.value == network.at_state(state).forward(native.action)[0]
    assert native.value == pytest.approx(best.value, rel=1e-6, abs=1e-6)
    assert native.bound >= best.value - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_solvers_agree_at_the_size_of_the_published_bandits(seed, trained_network):
    rng = np.random.default_rng(seed)
    network = trained_network(rng, 40, (8, 16))
    space = Capacity(rng.integers(2, 7, 20), rng.integers(2, 8, 5)) & BudgetTopK(20, 5)
    state = rng.integers(0, 4, 20) / 3.0
    values = {
        (solver, formulation): MilpArgmax(network, space, SOLVERS[solver], MilpOptions(formulation))
        .solve_one(state, EXACT)
        .value
        for solver in SOLVERS
        for formulation in ("bigm", "partition")
    }
    values["native", ""] = BranchAndBoundArgmax(network, space).solve_one(state, EXACT).value
    first = next(iter(values.values()))
    assert values == pytest.approx(dict.fromkeys(values, first), rel=1e-6, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(-4, 4),
    shift=st.floats(-100, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_values_of_any_scale_are_solved_exactly(scale, shift, seed, random_network):
    """Weights from 1e-4 to 1e4 and outputs far from zero."""
    rng = np.random.default_rng(seed)
    drawn = random_network(rng, 8, (6, 6))
    factor = 10.0**scale
    network = Network.from_arrays(
        [layer.weight * (factor if i == 0 else 1.0) for i, layer in enumerate(drawn.layers)],
        [*[layer.bias for layer in drawn.layers[:-1]], drawn.output.bias + shift],
    )
    space = BudgetTopK(6, 3)
    state = rng.normal(size=2)
    best = EnumerationArgmax(network, space).solve_one(state, EXACT)
    for solver in (
        MilpArgmax(network, space, SOLVERS["highs"]),
        BranchAndBoundArgmax(network, space),
    ):
        result = solver.solve_one(state, EXACT)
        assert result.status == "optimal"
        assert result.value == pytest.approx(best.value, rel=2e-6, abs=2e-6)


def test_an_answer_depends_on_nothing_solved_before(random_network):
    rng = np.random.default_rng(0)
    networks = [random_network(rng, 12, (8, 8)) for _ in range(2)]
    states = rng.normal(size=(4, 4))
    space = BudgetTopK(8, 3)
    used = MilpArgmax(networks[0], space, HighsSolver())
    for state in states:
        used.solve_one(state, EXACT)
    used.update(networks[1])
    for state in states:
        fresh = MilpArgmax(networks[1], space, HighsSolver()).solve_one(state, EXACT)
        again = used.solve_one(state, EXACT)
        np.testing.assert_array_equal(again.action, fresh.action)
        assert again.value == fresh.value
        assert again.bound == fresh.bound


def test_a_gap_stops_early_with_a_valid_bound(random_network):
    rng = np.random.default_rng(1)
    network = random_network(rng, 16, (16, 16))
    space = BudgetTopK(12, 5)
    state = rng.normal(size=4)
    best = EnumerationArgmax(network, space).solve_one(state, EXACT)
    for solver in SOLVERS.values():
        result = MilpArgmax(network, space, solver).solve_one(state, SolveOptions(gap=0.5))
        assert result.status == "optimal"  # within the gap that was asked for
        assert result.bound - result.value <= 0.5 * abs(result.value)
        assert result.bound >= best.value - 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_time_limit_says_feasible_with_a_valid_bound(solver, random_network):
    rng = np.random.default_rng(2)
    network = random_network(rng, 60, (48, 48))
    space = BudgetTopK(40, 10)
    start = space.sample(rng, maximal=True)[0]
    result = MilpArgmax(network, space, SOLVERS[solver]).solve_one(
        rng.normal(size=20), SolveOptions(time_limit=0.3), start
    )
    assert result.status == "feasible"
    assert space.violations(result.action) == []
    assert np.isfinite(result.bound)
    assert result.gap > 0
    values = [result.value]
    assert result.bound >= max(values)


def test_without_time_for_any_action_there_is_no_solution(random_network):
    rng = np.random.default_rng(2)
    network = random_network(rng, 60, (64, 64))
    result = MilpArgmax(network, BudgetTopK(40, 10, exactly=True), SOLVERS["gurobi"]).solve_one(
        rng.normal(size=20), SolveOptions(time_limit=1e-9)
    )
    assert result.status in ("no_solution", "feasible")
    assert (result.action is None) == (result.status == "no_solution")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bounds", ["linear", "lp"])
def test_an_empty_set_is_infeasible(solver, bounds, random_network):
    network = random_network(np.random.default_rng(0), 5, (4,))
    space = BudgetTopK(4, 3, exactly=True) & BudgetTopK(4, 2)
    result = MilpArgmax(network, space, SOLVERS[solver], MilpOptions(bounds=bounds)).solve_one(
        np.zeros(1), EXACT
    )
    assert result.status == "infeasible"
    assert result.action is None
    assert np.isnan(result.value)
    listed = EnumerationArgmax(network, space).solve_one(np.zeros(1), EXACT)
    assert listed.status == "infeasible"


def test_a_good_start_is_not_lost_when_time_runs_out(random_network):
    rng = np.random.default_rng(4)
    network = random_network(rng, 60, (64, 64))
    space = BudgetTopK(40, 10)
    state = rng.normal(size=20)
    sample = space.sample(rng, 2000, maximal=True)
    start = sample[np.argmax(network.at_state(state).forward(sample)[:, 0])]
    result = MilpArgmax(network, space, SOLVERS["highs"]).solve_one(
        state, SolveOptions(time_limit=0.05), start
    )
    assert result.value >= network.at_state(state).forward(start)[0]


def test_an_infeasible_start_is_refused(random_network):
    network = random_network(np.random.default_rng(0), 5, (4,))
    solver = MilpArgmax(network, BudgetTopK(4, 1), SOLVERS["highs"])
    with pytest.raises(ValueError, match="start is not feasible: 2 actions chosen"):
        solver.solve_one(np.zeros(1), EXACT, np.array([1, 1, 0, 0], dtype=np.int8))


def test_solvers_travel_to_other_processes(random_network):
    network = random_network(np.random.default_rng(0), 7, (6,))
    for solver in SOLVERS.values():
        argmax = MilpArgmax(network, BudgetTopK(5, 2), solver)
        before = argmax.solve_one(np.ones(2), EXACT)
        after = pickle.loads(pickle.dumps(argmax)).solve_one(np.ones(2), EXACT)
        np.testing.assert_array_equal(before.action, after.action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": -0.1}, "gap must be a nonnegative number, got -0.1"),
        ({"absolute_gap": float("nan")}, "absolute_gap must be a nonnegative number, got nan"),
        ({"time_limit": 0}, "time_limit must be positive seconds or None, got 0"),
        ({"threads": 0}, "threads must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SolveOptions(**options)
