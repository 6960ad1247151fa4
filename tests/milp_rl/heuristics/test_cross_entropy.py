"""Cross-entropy search over combinatorial sets, against the exact argmax."""

import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.heuristics.cross_entropy import CombinatorialCrossEntropyArgmax

SETS = [
    mr.BudgetTopK(8, 3),
    mr.BudgetTopK(8, 3, exactly=True),
    mr.Capacity(costs=[2, 3, 4, 5, 2, 3, 2, 4], capacities=[6, 5]),
]
STATES = np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize("space", SETS, ids=lambda space: repr(space)[:30])
def test_actions_are_feasible_and_nearly_the_best(space):
    network = mr.QNetwork(3, 8, (16, 16), generator=torch.Generator().manual_seed(0))
    exact = mr.ArgmaxSolver(network, space, solver="enumeration")
    best = np.array([result.value for result in exact.solve_batch(STATES)])
    search = CombinatorialCrossEntropyArgmax(network, space)
    actions = search.actions(STATES)
    assert all(space.violations(action) == [] for action in actions)
    values = exact.value.values(STATES, actions.astype(float))
    few = CombinatorialCrossEntropyArgmax(network, space, iterations=1, samples=2, elites=1)
    fewer = exact.value.values(STATES, few.actions(STATES).astype(float))
    assert (values <= best + 1e-9).all()
    assert (best - values).mean() < 0.3 * (best - fewer).mean()
    one_by_one = np.concatenate([search.actions(state[None]) for state in STATES])
    np.testing.assert_array_equal(actions, one_by_one)  # a function of network and state


def test_wrong_numbers_and_variables_are_refused():
    network = mr.QNetwork(3, 8, (4,))
    with pytest.raises(ValueError, match="elites between 1 and samples, got 3, 5 and 4"):
        CombinatorialCrossEntropyArgmax(network, SETS[0], samples=4, elites=5)
    with pytest.raises(ValueError, match="built one by one"):
        CombinatorialCrossEntropyArgmax(network, mr.Box([0] * 8, [1] * 8))
