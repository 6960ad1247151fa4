import networkx as nx
import numpy as np
import pytest

from milp_rl.formulations.networks.network import Layer, Network
from milp_rl.formulations.spaces import BudgetTopK, Capacity, Routing, Scheduling
from milp_rl.formulations.spaces.contradictions import ContradictionError
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.milp.argmax import MilpArgmax
from milp_rl.solvers.milp.highs import HighsSolver
from milp_rl.solvers.options import SolveOptions

EXACT = SolveOptions()
RNG = np.random.default_rng(5)
SPACES = [
    BudgetTopK(12, 4),
    BudgetTopK(12, 4, exactly=True),
    Capacity(RNG.integers(2, 7, 12), [5, 6, 3]),
    Scheduling(RNG.random((3, 5)) < 0.6, RNG.random((12, 5)) < 0.4, needs=2, budget=3),
    Routing(nx.grid_2d_graph(3, 4), (0, 0), 8, 4),
    BudgetTopK(12, 4) & Capacity([2.5] * 12, [5, 5]),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_a_batch_is_solved_to_the_brute_force_optima(space, random_network):
    rng = np.random.default_rng(0)
    network = random_network(rng, 16, (12, 16))
    states = rng.normal(size=(20, 4))
    results = BranchAndBoundArgmax(network, space).solve(states, EXACT)
    brute = EnumerationArgmax(network, space)
    for state, result in zip(states, results, strict=True):
        best = brute.solve_one(state, EXACT)
        assert result.status == "optimal"
        assert space.violations(result.action) == []
        assert result.value == pytest.approx(best.value, rel=1e-9, abs=1e-9)
        assert result.value <= result.bound <= result.value + 2e-6 * max(1, abs(result.value))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_networks_that_milp_solvers_take_long_for(seed, random_network):
    rng = np.random.default_rng(seed)
    network = random_network(rng, 40, (64, 64))
    space = BudgetTopK(20, 5)
    states = rng.integers(0, 4, size=(3, 20)) / 3.0
    results = BranchAndBoundArgmax(network, space).solve(states, EXACT)
    brute = EnumerationArgmax(network, space)
    for state, result in zip(states, results, strict=True):
        assert result.status == "optimal"
        assert result.value == pytest.approx(brute.solve_one(state, EXACT).value, rel=1e-9)


@pytest.mark.parametrize("gap", [0.02, 0.5])
def test_a_gap_stops_early_with_a_bound_that_holds(gap, random_network):
    rng = np.random.default_rng(1)
    network, space = random_network(rng, 16, (12, 16)), SPACES[0]
    solver, brute = BranchAndBoundArgmax(network, space), EnumerationArgmax(network, space)
    nodes = []
    for state in rng.normal(size=(10, 4)):
        exact, loose = (
            solver.solve_one(state, EXACT),
            solver.solve_one(state, SolveOptions(gap=gap)),
        )
        best = brute.solve_one(state, EXACT).value
        assert loose.status == "optimal"
        assert loose.gap <= gap
        assert loose.bound >= best - 1e-9
        nodes.append((loose.nodes, exact.nodes))
    assert np.sum(nodes, axis=0)[0] < np.sum(nodes, axis=0)[1]


def test_a_time_limit_gives_an_action_and_a_valid_bound(random_network):
    rng = np.random.default_rng(2)
    network, space = random_network(rng, 40, (32, 32)), BudgetTopK(36, 12)
    state = rng.normal(size=4)
    result = BranchAndBoundArgmax(network, space).solve_one(state, SolveOptions(time_limit=1e-6))
    assert result.status == "feasible"
    assert space.violations(result.action) == []
    assert result.bound > result.value
    some = space.sample(rng, 2000, maximal=True)
    assert network.at_state(state).forward(some)[:, 0].max() <= result.bound


def test_an_empty_set_is_infeasible(random_network):
    rng = np.random.default_rng(3)
    space = BudgetTopK(6, 3, exactly=True) & BudgetTopK(6, 2)
    result = BranchAndBoundArgmax(random_network(rng, 8, (6,)), space).solve_one(np.zeros(2), EXACT)
    assert (result.status, result.action) == ("infeasible", None)


def test_starts_are_used_and_checked(random_network):
    rng = np.random.default_rng(4)
    network, space = random_network(rng, 16, (12, 16)), SPACES[0]
    solver = BranchAndBoundArgmax(network, space)
    state = rng.normal(size=4)
    best = solver.solve_one(state, EXACT)
    limited = solver.solve_one(state, SolveOptions(time_limit=1e-6), best.action)
    assert limited.value == best.value
    with pytest.raises(ValueError, match="the start is not feasible"):
        solver.solve_one(state, EXACT, np.ones(12, dtype=np.int8))


def test_updating_the_network_changes_the_answers(random_network):
    rng = np.random.default_rng(6)
    first, second = random_network(rng, 14, (8, 8)), random_network(rng, 14, (8, 8))
    solver = BranchAndBoundArgmax(first, SPACES[0])
    state = rng.normal(size=2)
    solver.solve_one(state, EXACT)
    solver.update(second)
    best = EnumerationArgmax(second, SPACES[0]).solve_one(state, EXACT)
    assert solver.solve_one(state, EXACT).value == pytest.approx(best.value)


def test_a_linear_network_and_no_states():
    network = Network.from_arrays([[[1.0, -2.0, 3.0, 0.5]]], [[0.25]])
    solver = BranchAndBoundArgmax(network, BudgetTopK(3, 2))
    assert solver.solve_one(np.array([2.0]), EXACT).chosen == [0, 2]
    assert solver.solve_one(np.array([2.0]), EXACT).value == pytest.approx(5.25)
    assert solver.solve(np.zeros((0, 1)), EXACT) == []


def test_an_oracle_of_your_own_that_is_no_upper_bound_is_caught(random_network):
    class Mistaken(BudgetTopK):
        def linear_max(self, coefficients, pins=None):
            return super().linear_max(coefficients, pins) - 5.0

    rng = np.random.default_rng(0)
    network = random_network(rng, 8, (6, 6))
    with pytest.raises(ContradictionError, match="is `linear_max` of Mistaken an upper bound"):
        BranchAndBoundArgmax(network, Mistaken(6, 2))


def test_an_oracle_that_calls_a_set_empty_is_caught(random_network):
    class Empty(BudgetTopK):
        def linear_max(self, coefficients, pins=None):
            return np.full(len(coefficients), -np.inf)

    network = random_network(np.random.default_rng(0), 8, (6, 6))
    with pytest.raises(ContradictionError, match="Empty says that the set is empty"):
        BranchAndBoundArgmax(network, Empty(6, 2))


@pytest.mark.parametrize("budget", [5, 15])
def test_large_sets_are_solved_as_a_milp_solver_does(budget, random_network):
    """With few neurons and many actions, the splits of neurons and their multipliers count."""
    rng = np.random.default_rng(budget)
    network, space = random_network(rng, 60, (6, 6)), BudgetTopK(40, budget)
    states = rng.normal(size=(3, 20))
    results = BranchAndBoundArgmax(network, space).solve(states, EXACT)
    milp = MilpArgmax(network, space, HighsSolver())
    for state, result in zip(states, results, strict=True):
        assert result.status == "optimal"
        assert result.value == pytest.approx(milp.solve_one(state, EXACT).value, rel=1e-6)


@pytest.mark.filterwarnings("error:overflow")
@pytest.mark.parametrize("exponent", [-48, 48])
def test_the_search_takes_as_many_nodes_whatever_the_scale(exponent, random_network):
    """Single precision holds 1e38 at most, and nothing below 1e-45."""
    rng = np.random.default_rng(1)
    network, state = random_network(rng, 18, (12, 12, 12, 12)), rng.normal(size=2)
    factor = 2.0 ** round(exponent * np.log2(10))
    first = network.layers[0]
    scaled = (
        Layer(first.weight * factor, first.bias * factor),
        *(
            Layer(layer.weight, layer.bias * factor, layer.activation)
            for layer in network.layers[1:]
        ),
    )
    space = BudgetTopK(16, 5)
    plain = BranchAndBoundArgmax(network, space).solve_one(state, EXACT)
    result = BranchAndBoundArgmax(Network(scaled), space).solve_one(state, EXACT)
    assert result.status == "optimal"
    assert result.chosen == plain.chosen
    assert 1 < result.nodes <= 1.2 * plain.nodes
