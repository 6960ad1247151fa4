"""Solvers that lie: none of their answers may come back as optimal."""

from dataclasses import replace

import numpy as np
import pyomo.environ as pyo
import pytest

from milp_rl.formulations.embedding import add_network
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces import ActionSpace, BudgetTopK
from milp_rl.formulations.spaces.contradictions import ContradictionError
from milp_rl.solvers.certify import ArgmaxProblem, certify
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.milp.argmax import MilpArgmax
from milp_rl.solvers.milp.highs import HighsSolver
from milp_rl.solvers.milp.solver import MilpSolution
from milp_rl.solvers.models import solve as model_module
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import relative_gap

EXACT = SolveOptions()


@pytest.fixture(autouse=True)
def only_the_solver_finds_actions(monkeypatch):
    """A good action known beforehand would contradict most lies, or make them harmless."""
    monkeypatch.setattr(MilpArgmax, "_first_action", lambda *given: given[3])


class Liar:
    """HiGHS, with its answer changed; honest after ``lies`` answers."""

    name = "liar"

    def __init__(self, change, lies=10**9):
        self.change = change
        self.lies = lies
        self.calls = 0
        self.highs = HighsSolver()

    def solve(self, model, options, *, start=None, tight=False, seed=0):
        self.calls += 1
        solution = self.highs.solve(model, options, start=start, tight=tight, seed=seed)
        return self.change(model, solution) if self.calls <= self.lies else solution


def worse_as_optimal(model, solution):
    """Another feasible action, called optimal with its own value as bound."""
    x = np.zeros(model.n_columns)
    return MilpSolution("optimal", x, solution.bound - 5.0)


def infeasible_action(model, solution):
    x = solution.x.copy()
    x[:6] = 1.0
    return MilpSolution("optimal", x, solution.bound)


def called_infeasible(model, solution):
    return MilpSolution("infeasible", None, -np.inf)


@pytest.fixture
def problem(random_network):
    rng = np.random.default_rng(0)
    return random_network(rng, 8, (6, 6)), BudgetTopK(6, 2), rng.normal(size=2)


@pytest.mark.parametrize("change", [worse_as_optimal, infeasible_action, called_infeasible])
def test_a_wrong_answer_is_caught(change, problem):
    network, space, state = problem
    with pytest.raises(CertificationError, match="liar gave a wrong answer"):
        MilpArgmax(network, space, Liar(change)).solve_one(state, EXACT)


@pytest.mark.parametrize("change", [worse_as_optimal, infeasible_action, called_infeasible])
def test_a_wrong_answer_is_mended_by_solving_more_tightly(change, problem):
    network, space, state = problem
    liar = Liar(change, lies=1)
    result = MilpArgmax(network, space, liar).solve_one(state, EXACT)
    best = EnumerationArgmax(network, space).solve_one(state, EXACT)
    assert liar.calls == 2
    assert result.status == "optimal"
    assert result.value == pytest.approx(best.value, abs=1e-6)


def test_a_bound_below_a_known_action_is_a_wrong_answer(problem):
    network, space, state = problem
    best = EnumerationArgmax(network, space).solve_one(state, EXACT).action
    with pytest.raises(CertificationError, match="exceeds the claimed bound"):
        MilpArgmax(network, space, Liar(lambda m, s: replace(s, bound=s.bound - 1.0))).solve_one(
            state, EXACT, best
        )


def test_a_point_that_violates_within_tolerances_does_not_count(problem):
    """The objective says more than the action is worth: bound and value must be closed by cuts."""
    network, space, state = problem

    def inflated(model, solution):
        if solution.x is None:
            return solution
        x = np.zeros(model.n_columns)  # the action of lowest index, not the best
        return MilpSolution("optimal", x, solution.bound)

    best = EnumerationArgmax(network, space).solve_one(state, EXACT)
    liar = Liar(inflated, lies=2)  # also when solved tightly; honest once the point is cut off
    result = MilpArgmax(network, space, liar).solve_one(state, EXACT)
    assert liar.calls == 3
    assert result.status == "optimal"
    assert result.value == pytest.approx(best.value, abs=1e-6)

    always = MilpArgmax(network, space, Liar(inflated)).solve_one(state, EXACT)
    assert always.status == "feasible"  # never closed, so never called optimal
    assert always.bound >= best.value - 1e-6


def test_an_oracle_of_your_own_that_is_no_upper_bound_is_caught(problem):
    network, _, state = problem

    class Mistaken(BudgetTopK):
        def linear_max(self, coefficients, pins=None):
            return super().linear_max(coefficients, pins) * 0.2

    with pytest.raises(ContradictionError, match="is `linear_max` of Mistaken an upper bound"):
        MilpArgmax(network, Mistaken(6, 3), HighsSolver()).solve_one(state, EXACT)

    class Empty(BudgetTopK):
        def linear_max(self, coefficients, pins=None):
            return np.full(len(coefficients), -np.inf)

    with pytest.raises(ContradictionError, match="Empty says that the set is empty"):
        MilpArgmax(network, Empty(6, 3), HighsSolver()).solve_one(state, EXACT)


def test_a_block_whose_constraints_and_check_disagree_is_caught(problem):
    _, _, state = problem

    class Loose(ActionSpace):
        n_actions = 6

        def constrain(self, block, actions):
            block.limit = pyo.Constraint(expr=sum(actions) <= 6)

        def violations(self, action):
            chosen = int(self.check_action(action).sum())
            return [f"{chosen} chosen"] if chosen > 1 else []

        def to_dict(self):
            return {"type": "Loose"}

    steep = Network.from_arrays([np.ones((1, 8))], [[0.0]])
    with pytest.raises(ContradictionError, match=r"Loose .* `constrain` allows it"):
        MilpArgmax(steep, Loose(), HighsSolver()).solve_one(state, EXACT)


def test_certify_names_what_is_wrong():
    problem = ArgmaxProblem(Network.from_arrays([[[1.0, 2.0, 4.0]]], [[0.0]]), BudgetTopK(3, 1))
    best = np.array([0, 0, 1], dtype=np.int8)
    worse = np.array([0, 1, 0], dtype=np.int8)
    assert certify(problem, best, 4.0) == []
    assert certify(problem, best, 7.0) == []  # a loose bound is no contradiction
    assert "exceeds the claimed bound 3.0" in certify(problem, best, 3.0)[0]
    assert "action [2] has value 4.0" in certify(problem, worse, 2.0)[0]
    assert "2 actions chosen" in certify(problem, best + worse, 9.0)[0]
    assert certify(problem, best, float("nan"))


def test_the_gap_is_relative_to_the_value():
    assert relative_gap(10.0, 10.2) == pytest.approx(0.02)
    assert relative_gap(-10.0, -9.8) == pytest.approx(0.02)
    assert relative_gap(10.0, 10.0 + 1e-9) == pytest.approx(1e-10)
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(0.0, 1.0) == np.inf


def test_a_wrong_solution_of_a_users_model_is_caught(monkeypatch, problem):
    network, space, state = problem
    m = pyo.ConcreteModel()
    m.visit = pyo.Block()
    a = space.add_to(m.visit)
    m.q = pyo.Block()
    value = add_network(m.q, network, [*a, *state], space=space)
    m.objective = pyo.Objective(expr=value, sense=pyo.maximize)

    def no_network(model, solution):
        return MilpSolution("optimal", np.zeros(model.n_columns), 0.0)

    liar = Liar(no_network)
    monkeypatch.setattr(model_module, "milp_solver", lambda name: liar)
    with pytest.raises(CertificationError, match=r"constraint q\.\S+ is violated by"):
        model_module.solve_model(m)
    assert all(v.value is None for v in a)  # nothing half-written
