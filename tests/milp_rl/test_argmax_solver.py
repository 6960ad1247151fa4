"""What a user of `argmax`, `argmin` and `ArgmaxSolver` relies on."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import milp_rl as mr

STATE = [0.3, -1.0, 0.5]


@pytest.fixture(scope="module")
def q_network():
    return mr.QNetwork(
        state_dim=3, action_dim=6, hidden=(8, 8), generator=torch.Generator().manual_seed(3)
    )


def brute_force(q_network, space, state):
    actions = space.enumerate()
    x = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
    with torch.no_grad():
        values = q_network(torch.tensor(x, dtype=torch.float32))[:, 0].numpy()
    return values.min(), values.max()


@pytest.mark.parametrize("solver", ["highs", "gurobi", "branch_and_bound", "enumeration"])
def test_argmax_and_argmin_agree_with_torch_on_every_action(solver, q_network):
    space = mr.BudgetTopK(n_actions=6, k=3)
    lowest, highest = brute_force(q_network, space, STATE)
    best = mr.argmax(q_network, STATE, space, solver=solver)
    worst = mr.argmin(q_network, STATE, space, solver=solver)
    assert (best.status, worst.status) == ("optimal", "optimal")
    assert best.value == pytest.approx(highest, abs=1e-5)
    assert worst.value == pytest.approx(lowest, abs=1e-5)
    assert best.bound >= best.value
    assert worst.bound <= worst.value
    assert best.bound - best.value <= best.tolerance <= 1e-6 * (highest - lowest) + 1e-9
    assert worst.value - worst.bound <= worst.tolerance <= 1e-6 * (highest - lowest) + 1e-9
    assert best.chosen == np.flatnonzero(best.action).tolist()
    assert best.solver == solver
    assert best.seconds > 0


def test_a_sequential_and_an_onnx_file_are_networks_too(q_network, tmp_path):
    space = mr.BudgetTopK(6, 2)
    q_network.to_onnx(tmp_path / "q.onnx")
    space.to_json(tmp_path / "space.json")
    first = mr.argmax(q_network, STATE, space)
    again = mr.argmax(tmp_path / "q.onnx", STATE, mr.ActionSpace.from_json(tmp_path / "space.json"))
    np.testing.assert_array_equal(first.action, again.action)
    assert first.value == again.value
    sequential = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    assert mr.argmax(sequential, STATE, space).status == "optimal"


def test_a_batch_is_solved_in_order(q_network):
    space = mr.BudgetTopK(6, 2)
    solver = mr.ArgmaxSolver(q_network, space)
    states = np.random.default_rng(0).normal(size=(5, 3))
    for state, result in zip(states, solver.solve_batch(states), strict=True):
        np.testing.assert_array_equal(result.action, solver(state).action)
        assert result.value == solver.solve(state).value


@pytest.mark.parametrize("name", ["highs", "gurobi"])
def test_a_solver_is_used_from_several_threads(name, q_network):
    solver = mr.ArgmaxSolver(q_network, mr.BudgetTopK(6, 3), solver=name)
    states = np.random.default_rng(0).normal(size=(40, 3))
    alone = [result.value for result in solver.solve_batch(states)]
    with ThreadPoolExecutor(4) as pool:
        together = [result.value for result in pool.map(solver.solve, states)]
    assert together == alone


class OfTheMean(torch.nn.Module):
    """Runs with states of any size, which no weight tells."""

    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(7, 1)

    def forward(self, action, state):
        return self.q(torch.cat([action, state.mean(dim=1, keepdim=True)], dim=1))


def test_the_state_says_how_many_features_a_network_takes():
    network, space, state = OfTheMean(), mr.BudgetTopK(6, 2), [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="the state has 3 values, but network and space leave 7"):
        mr.ArgmaxSolver(network, space).solve(state)
    result = mr.argmax(network, state, space)
    solver = mr.ArgmaxSolver(network, space, state_dim=3)
    assert result.value == solver.solve(state).value
    other = OfTheMean()
    solver.update(other)
    assert solver.solve(state).value == mr.argmax(other, state, space).value


def test_an_updated_solver_answers_for_the_new_network(q_network):
    space = mr.BudgetTopK(6, 2)
    other = mr.QNetwork(3, 6, (8, 8), generator=torch.Generator().manual_seed(9))
    solver = mr.ArgmaxSolver(q_network, space)
    solver.update(other)
    assert solver.solve(STATE).value == mr.argmax(other, STATE, space).value
    with pytest.raises(ValueError, match="takes 12 inputs, the old one 9"):
        solver.update(mr.QNetwork(6, 6))


def test_a_start_and_a_gap_of_its_own_for_a_call(q_network):
    space = mr.BudgetTopK(6, 2)
    solver = mr.ArgmaxSolver(q_network, space)
    exact = solver.solve(STATE)
    started = solver.solve(STATE, start=exact.action)
    assert started.value == exact.value
    assert solver.solve(STATE, gap=0.5).value <= exact.value


def test_a_network_of_actions_alone_takes_an_empty_state():
    network = mr.Network.from_arrays([[[1.0, -2.0, 3.0]]], [[0.5]])
    result = mr.argmax(network, [], mr.BudgetTopK(3, 1))
    assert result.chosen == [2]
    assert result.value == 3.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": [0.0, 1.0]}, "the state has 2 values, but network and space leave 3"),
        ({"state": [0.0, float("nan"), 1.0]}, r"state\[1\] is nan"),
        ({"state": [[0.0, 1.0, 2.0]]}, "state must have one dimension"),
        ({"space": mr.BudgetTopK(20, 5)}, "takes 9 inputs, .* has 20 actions"),
        ({"space": [1, 2]}, "space must be an ActionSpace, got list"),
        ({"solver": "cplex"}, "'branch_and_bound', 'enumeration', got 'cplex'"),
        ({"formulation": "hull"}, "'bigm' or 'partition', got 'hull'"),
        ({"bounds": "crown"}, "'interval', 'linear' or 'lp', got 'crown'"),
        ({"gap": -1}, "gap must be a nonnegative number, got -1"),
        ({"start": [1, 1, 1, 1, 0, 0]}, "start is not feasible: 4 actions chosen"),
        ({"start": [0.5, 0, 0, 0, 0, 0]}, r"action\[0\] is 0.5"),
        ({"partitions": 0, "formulation": "partition"}, "partitions must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(change, message, q_network):
    arguments = {"network": q_network, "state": STATE, "space": mr.BudgetTopK(6, 2)} | change
    with pytest.raises(ValueError, match=message):
        mr.argmax(**arguments)


def test_a_network_of_several_outputs_has_no_argmax():
    with pytest.raises(ValueError, match="must have one output, the Q-value; got 2"):
        mr.argmax(mr.Network.from_arrays([np.ones((2, 3))], [np.zeros(2)]), [], mr.BudgetTopK(3, 1))


@pytest.mark.parametrize(
    ("space", "hidden", "chosen", "why"),
    [
        (mr.BudgetTopK(20, 2), (4,), "enumeration", "so few actions"),
        (mr.BudgetTopK(40, 3), (4,), "enumeration", "so few actions"),
        (mr.BudgetTopK(40, 20), (4,), "branch_and_bound", "nodes"),
        (mr.BudgetTopK(20, 5), (64, 64), "enumeration", "left a gap of"),
        (mr.BudgetTopK(4, 3, exactly=True) & mr.BudgetTopK(4, 2), (4,), "enumeration", "empty set"),
    ],
)
def test_auto_picks_by_size_and_by_trying_and_says_why(space, hidden, chosen, why):
    network = mr.QNetwork(2, space.n_actions, hidden, generator=torch.Generator().manual_seed(0))
    result = mr.ArgmaxSolver(network, space).solve_batch([[0.0, 1.0]])[0]
    assert result.solver == chosen
    assert why in result.message
    if result.action is not None:
        assert result.status == "optimal"
        other = "highs" if chosen == "branch_and_bound" else "enumeration"
        best = mr.argmax(network, [0.0, 1.0], space, solver=other)
        assert result.value == pytest.approx(best.value, abs=1e-6)


def test_auto_hands_hard_states_to_a_milp_solver(monkeypatch):
    monkeypatch.setattr("milp_rl.solvers.backends._NODES_IN_LOOPS", 1)
    network = mr.QNetwork(10, 30, (8, 8), generator=torch.Generator().manual_seed(0))
    solver = mr.ArgmaxSolver(network, mr.BudgetTopK(30, 4))
    states = np.random.default_rng(0).normal(size=(12, 10))
    results = solver.solve_batch(states)
    assert {result.solver for result in results} == {"highs"}
    assert "left a gap of" in results[0].message
    assert "did not solve 4 other states" in results[-1].message
    assert all(result.status == "optimal" for result in results)


@pytest.mark.parametrize("solver", ["auto", "highs", "gurobi", "branch_and_bound", "enumeration"])
def test_the_number_of_workers_changes_nothing(solver, q_network, monkeypatch):
    monkeypatch.setattr("milp_rl.solvers.batch._SECONDS_WORTH_PROCESSES", 0.0)
    space = mr.BudgetTopK(6, 3)
    states = np.random.default_rng(0).normal(size=(130, 3))
    many = mr.ArgmaxSolver(q_network, space, solver=solver)
    one = mr.ArgmaxSolver(q_network, space, solver=solver)
    for network in (q_network, mr.QNetwork(3, 6, (8, 8))):
        many.update(network)
        one.update(network)
        for a, b in zip(
            many.solve_batch(states, workers=2), one.solve_batch(states, workers=1), strict=True
        ):
            np.testing.assert_array_equal(a.action, b.action)
            assert (a.value, a.bound, a.nodes) == (b.value, b.bound, b.nodes)


@pytest.mark.parametrize("solver", ["highs", "gurobi", "scip", "branch_and_bound", "enumeration"])
def test_lines_about_a_solve_go_where_they_are_asked(solver, q_network, capfd, monkeypatch):
    if solver in ("gurobi", "scip"):
        pytest.importorskip({"gurobi": "gurobipy", "scip": "pyscipopt"}[solver])
    monkeypatch.setattr("milp_rl.solvers.log._SECONDS_PER_LINE", 0.0)
    lines = []
    options = {"solver": solver, "sense": "minimize"}
    space = mr.BudgetTopK(6, 3)
    argmin = mr.ArgmaxSolver(q_network, space, verbose=lines.append, **options)
    quiet = mr.ArgmaxSolver(q_network, space, **options).solve(STATE)
    result = argmin.solve(STATE)
    assert result.value == quiet.value
    assert lines[-1].startswith(f"optimal by {solver}: value {result.value:.9g}, bound ")
    if solver == "branch_and_bound":
        assert lines[0].startswith("after 0 s: ")
    elif solver != "enumeration":
        assert len(lines) > 5
    del lines[:]
    assert len(copy.copy(argmin).solve_batch([STATE] * 3, workers=1)) == 3
    assert sum(line.startswith("optimal by ") for line in lines) == 3
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
    mr.argmax(q_network, STATE, space, solver=solver, verbose=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[-1].startswith(f"optimal by {solver}: value ")


def test_lines_of_other_processes_are_left_out(q_network, monkeypatch):
    """A function that cannot be pickled does not stop them."""
    monkeypatch.setattr("milp_rl.solvers.batch._SECONDS_WORTH_PROCESSES", 0.0)
    lines = []
    space = mr.BudgetTopK(6, 3)
    states = np.random.default_rng(0).normal(size=(70, 3))
    argmax = mr.ArgmaxSolver(
        q_network, space, solver="branch_and_bound", verbose=lambda line: lines.append(line)
    )
    results = argmax.solve_batch(states, workers=2)
    assert [line.split()[4] for line in lines] == [f"{r.value:.9g}," for r in results]


@pytest.mark.parametrize("solver", ["auto", "highs", "branch_and_bound", "enumeration"])
def test_starts_are_given_state_by_state(solver, q_network):
    space = mr.BudgetTopK(6, 3)
    states = np.random.default_rng(0).normal(size=(4, 3))
    argmax = mr.ArgmaxSolver(q_network, space, solver=solver)
    best = [result.action for result in argmax.solve_batch(states)]
    again = argmax.solve_batch(states, starts=[best[0], None, best[2], None])
    for action, result in zip(best, again, strict=True):
        np.testing.assert_array_equal(action, result.action)
    with pytest.raises(ValueError, match="got 1 starts for 4 states"):
        argmax.solve_batch(states, starts=[best[0]])
    with pytest.raises(ValueError, match="workers must be at least 1"):
        argmax.solve_batch(states, workers=0)


@pytest.mark.parametrize("solver", ["highs", "gurobi", "branch_and_bound"])
def test_a_node_limit_gives_an_action_and_a_bound(solver):
    network = mr.QNetwork(10, 30, (32, 32), generator=torch.Generator().manual_seed(0))
    space = mr.BudgetTopK(30, 10)
    argmax = mr.ArgmaxSolver(network, space, solver=solver, node_limit=2)
    result = argmax.solve(np.ones(10))
    assert result.status == "feasible"
    assert space.violations(result.action) == []
    assert result.bound > result.value
    with pytest.raises(ValueError, match="node_limit must be an integer of at least 1"):
        mr.ArgmaxSolver(network, space, node_limit=0)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (np.ma.array([5.0, 1.0, 2.0], mask=[True, False, False]), "some of state.* is masked"),
        (np.array([1.0, 2.0 + 1j, 0.0]), "must be of real numbers"),
    ],
)
def test_a_state_of_which_something_is_hidden_is_refused(q_network, state, said):
    solver = mr.ArgmaxSolver(q_network, mr.BudgetTopK(6, 3))
    with pytest.raises(ValueError, match=said):
        solver.solve(state)
    with pytest.raises(ValueError, match=said):
        solver.solve_batch(np.ma.stack([state]) if np.ma.isMA(state) else state[None])
