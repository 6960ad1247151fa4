"""Batches in worker processes and threads: each solver answers for its own network."""

import copy
import pickle
import threading

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.solvers import batch


def copied(solver, how):
    return pickle.loads(pickle.dumps(solver)) if how == "pickle" else getattr(copy, how)(solver)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_answers_for_its_own_network(how, random_network, monkeypatch):
    """Both use the same worker processes, which remember what they were given."""
    monkeypatch.setattr(batch, "_SECONDS_WORTH_PROCESSES", 0.0)
    rng = np.random.default_rng(0)
    networks = [random_network(rng, 15, (8,)) for _ in range(3)]
    states = rng.normal(size=(130, 3))
    first = mr.ArgmaxSolver(networks[0], mr.BudgetTopK(12, 4), solver="branch_and_bound")
    second = copied(first, how)
    first.update(networks[1])
    second.update(networks[2])
    for _ in range(2):
        for solver, network in ((first, networks[1]), (second, networks[2])):
            for state, result in zip(states, solver.solve_batch(states, workers=2), strict=True):
                assert result.value == network.at_state(state).forward(result.action)[0]
                assert result.status == "optimal"


@pytest.mark.parametrize("solver", ["highs", "branch_and_bound"])
def test_an_update_during_a_solve_is_refused(solver, random_network, monkeypatch):
    rng = np.random.default_rng(1)
    network, other = random_network(rng, 15, (8,)), random_network(rng, 15, (8,))
    solving = mr.ArgmaxSolver(network, mr.BudgetTopK(12, 4), solver=solver)
    backend = solving._batch.backend
    inside, go_on = threading.Event(), threading.Event()
    original = backend._solve

    def waiting(*arguments):
        inside.set()
        go_on.wait(10)
        return original(*arguments)

    monkeypatch.setattr(backend, "_solve", waiting)
    found = []
    thread = threading.Thread(target=lambda: found.append(solving.solve(np.zeros(3))))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(RuntimeError, match="while another thread solves"):
        solving.update(other)
    go_on.set()
    thread.join()
    assert found[0].value == network.forward(np.append(found[0].action, np.zeros(3)))[0]
    solving.update(other)
    result = solving.solve(np.zeros(3))
    assert result.value == other.forward(np.append(result.action, np.zeros(3)))[0]


@pytest.mark.parametrize("solver", ["auto", "enumeration", "branch_and_bound", "highs", "scip"])
def test_a_start_that_is_not_feasible_is_refused(solver, random_network):
    network = random_network(np.random.default_rng(2), 8, (6,))
    solving = mr.ArgmaxSolver(network, mr.BudgetTopK(6, 2), solver=solver)
    with pytest.raises(ValueError, match="start is not feasible: 3 actions chosen"):
        solving.solve(np.zeros(2), start=[1, 1, 1, 0, 0, 0])
    with pytest.raises(ValueError, match="start is not feasible: 3 actions chosen"):
        solving.solve_batch(np.zeros((3, 2)), starts=[None, [1, 1, 1, 0, 0, 0], None])


def test_each_state_keeps_its_own_time_limit_and_the_best_bound_is_kept(random_network):
    """What the search leaves open goes on with the time that is left to that state."""
    from dataclasses import replace

    from milp_rl.solvers.auto import AutoArgmax
    from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax
    from milp_rl.solvers.incumbents import Incumbents
    from milp_rl.solvers.milp.argmax import MilpArgmax
    from milp_rl.solvers.milp.highs import HighsSolver
    from milp_rl.solvers.options import SolveOptions

    rng = np.random.default_rng(3)
    network, space = random_network(rng, 43, (24, 24)), mr.BudgetTopK(40, 10)
    incumbents = Incumbents(space)
    given = []

    class Recorded(MilpArgmax):
        def results(self, networks, options, starts, pins):
            given.append(options.time_limit)
            best = super().results(networks, replace(options, time_limit=0.2), starts, pins)
            return [replace(r, bound=r.bound + 100.0) for r in best]  # a bound that says nothing

    auto = AutoArgmax(
        network,
        space,
        incumbents,
        milp=Recorded(network, space, HighsSolver(), incumbents=incumbents),
        search=BranchAndBoundArgmax(network, space, incumbents),
        nodes=5,
    )
    states = rng.normal(size=(4, 3))
    results = auto.solve(states, SolveOptions(time_limit=50.0))
    assert len(given) == 4
    assert min(given) > 40.0
    for result, state in zip(results, states, strict=True):
        sample = space.sample(rng, 500, maximal=True)
        assert result.bound >= network.at_state(state).forward(sample).max()
        assert result.bound < result.value + 50.0  # the search's
