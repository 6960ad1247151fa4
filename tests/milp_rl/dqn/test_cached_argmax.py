from dataclasses import replace

import numpy as np
import pytest
import torch

from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.baselines import GreedyArgmax
from milp_rl.dqn.cached_argmax import CachedArgmax
from milp_rl.dqn.choosers import ExactChooser, HeuristicChooser
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.capacity import Capacity
from milp_rl.qnetwork import QNetwork

SPACE = Capacity([2, 3, 4, 2], [4, 3])


@pytest.fixture
def network() -> QNetwork:
    return QNetwork(4, 4, (8, 8), generator=torch.Generator().manual_seed(0))


def states(n: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(4**4)[:n, None] // 4 ** np.arange(4) % 4


def brute_force(network: QNetwork, rows: np.ndarray) -> list[float]:
    actions = torch.tensor(SPACE.enumerate()).float()
    with torch.no_grad():
        return [float(network.q(torch.tensor(s).float(), actions).max()) for s in rows]


def values(network: QNetwork, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.q(torch.tensor(rows).float(), torch.tensor(actions).float()).numpy()


@pytest.mark.parametrize("solver", ["highs", "enumeration"])
def test_actions_are_the_brute_force_argmaxes(network, solver):
    rows = states(20).astype(np.float32)
    actions = CachedArgmax(network, ExactChooser(network, SPACE, solver=solver), 100).actions(rows)
    assert actions.dtype == np.int8
    assert all(SPACE.violations(a) == [] for a in actions)
    np.testing.assert_allclose(
        values(network, rows, actions), brute_force(network, rows), rtol=1e-5
    )


def test_each_state_is_solved_once_until_the_weights_change(network):
    cache = CachedArgmax(network, ExactChooser(network, SPACE, solver="enumeration"), 100)
    rows = states(6).astype(np.float32)
    first = cache.actions(rows[[0, 1, 0, 2]])
    assert (cache.lookups, cache.solves) == (4, 3)
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(cache.actions(rows[:3]), first[[0, 1, 3]])
    assert (cache.lookups, cache.solves) == (7, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    cache.renew()
    np.testing.assert_allclose(
        values(network, rows, cache.actions(rows)), brute_force(network, rows), rtol=1e-5
    )
    assert cache.solves == 9


def test_a_smaller_gap_is_solved_anew(network):
    cache = CachedArgmax(network, ExactChooser(network, SPACE, solver="enumeration"), 100)
    rows = states(2).astype(np.float32)
    cache.actions(rows, 0.5)
    cache.actions(rows, 0.0)
    assert cache.solves == 4
    cache.actions(rows, 0.5)
    assert cache.solves == 4


def test_earlier_answers_are_where_solves_start(network, monkeypatch):
    cache = CachedArgmax(network, ExactChooser(network, SPACE), 100)
    rows = states(6).astype(np.float32)
    first = cache.actions(rows)
    assert cache.starts == 0
    given = []
    solve_batch = ArgmaxSolver.solve_batch
    monkeypatch.setattr(
        ArgmaxSolver,
        "solve_batch",
        lambda self, s, starts, **rest: (
            given.extend(starts) or solve_batch(self, s, starts=starts, **rest)
        ),
    )
    cache.renew()
    np.testing.assert_array_equal(cache.actions(rows), first)
    np.testing.assert_array_equal(given, first)
    assert (cache.solves, cache.starts) == (12, 6)


def test_a_restored_cache_knows_what_the_saved_one_knew(network):
    cache, restored = (CachedArgmax(network, ExactChooser(network, SPACE), 100) for _ in range(2))
    rows = states(8).astype(np.float32)
    restored.load_state_dict(cache.state_dict())
    assert restored.solves == 0
    cache.actions(rows[:4], 0.1)
    cache.renew()
    best = cache.actions(rows[2:6])
    restored.load_state_dict(cache.state_dict())
    assert (restored.lookups, restored.solves, restored.starts) == (8, 8, 2)
    np.testing.assert_array_equal(restored.actions(rows[2:6]), best)
    assert restored.solves == 8
    restored.actions(rows)
    assert (restored.solves, restored.starts) == (12, 4)


def test_memory_is_bounded_and_the_oldest_go_first(network):
    cache = CachedArgmax(network, ExactChooser(network, SPACE, solver="enumeration"), 3)
    rows = states(5).astype(np.float32)
    actions = cache.actions(rows)  # five at once, more than fit
    np.testing.assert_allclose(values(network, rows, actions), brute_force(network, rows), 1e-5)
    cache.actions(rows[2:])
    assert cache.solves == 5
    cache.actions(rows[:1])
    assert cache.solves == 6


def test_impossible_space_is_an_error_not_an_action(network):
    impossible = BudgetTopK(4, 3, exactly=True) & BudgetTopK(4, 2)
    with pytest.raises((RuntimeError, ValueError)):
        CachedArgmax(network, ExactChooser(network, impossible), 10).actions(
            states(1).astype(np.float32)
        )


def test_greedy_actions_are_remembered_and_renewed_like_exact_ones(network):
    cache = CachedArgmax(network, HeuristicChooser(GreedyArgmax, network, SPACE), 100)
    rows = states(20).astype(np.float32)
    np.testing.assert_array_equal(cache.actions(rows), GreedyArgmax(network, SPACE).actions(rows))
    cache.actions(rows)
    assert (cache.lookups, cache.solves) == (40, 20)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    cache.renew()
    np.testing.assert_array_equal(cache.actions(rows), GreedyArgmax(network, SPACE).actions(rows))


def test_a_share_of_the_answers_is_audited(network, monkeypatch, caplog):
    proven, chooser = [], ExactChooser(network, SPACE, audit=0.25)
    prove = ArgmaxSolver.prove

    def watched(self, state, result, **options):
        proven.append(state)
        return prove(self, state, result, **options)

    monkeypatch.setattr(ArgmaxSolver, "prove", watched)
    rows = states(12).astype(np.float32)
    answers = chooser.choose(rows, [None] * 12, 0.0)
    np.testing.assert_array_equal(proven, rows[3::4])
    assert not caplog.records
    unaudited = ExactChooser(network, SPACE).choose(rows, [None] * 12, 0.0)
    np.testing.assert_array_equal(answers, unaudited)

    def worse(self, *arguments, **options):
        results = solve_batch(self, *arguments, **options)
        return [replace(own, value=own.value - 1, bound=own.value - 1) for own in results]

    solve_batch = ArgmaxSolver.solve_batch
    monkeypatch.setattr(ArgmaxSolver, "solve_batch", worse)
    chooser.choose(rows[:4], [None] * 4, 0.0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"not proven, in state {rows[3].tolist()}" in caplog.text
