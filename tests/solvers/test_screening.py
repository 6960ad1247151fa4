"""Actions of a list that bounds rule out: the best one is never among them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.networks.action_value import (
    ActionLayer,
    ActionNetworks,
    ActionValue,
    NetworkValue,
)
from milp_rl.solvers import enumeration
from milp_rl.solvers.auto import AutoArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.screening import functions_above, suits_screening

N, STATE = 9, 3
BOX = mr.Box([-2, 0, 1], [3, 5, 4], integer=[0, 1, 2])


@pytest.fixture(autouse=True)
def _short_lists_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration, "_LEAST_SCREENED", 0)


def near_linear(
    rng: np.random.Generator, n: int, widths: tuple[int, ...], scale: float = 1.0
) -> mr.Network:
    """Return a network most of whose neurons are on, as those of trained ones are on or off."""
    sizes = [n + STATE, *widths, 1]
    weights = [rng.normal(size=(b, a)) / a for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(0.5, 0.3, size=b) for b in sizes[1:]]
    weights[-1] = weights[-1] * scale
    return mr.Network.from_arrays(weights, biases)


def every_value(network: mr.Network, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
    inputs = np.hstack([actions, np.tile(state, (len(actions), 1))]).astype(float)
    for layer in network.layers[:-1]:
        inputs = np.maximum(inputs @ layer.weight.T + layer.bias, 0.0)
    last = network.layers[-1]
    return (inputs @ last.weight.T + last.bias)[:, 0]


@pytest.mark.parametrize("widths", [(8, 6), (16, 32), (7, 5, 6)])
@pytest.mark.parametrize("space", [mr.BudgetTopK(N, 4), mr.Permutation(3), BOX], ids=str)
def test_screened_lists_have_the_best_action(
    widths: tuple[int, ...], space: mr.ActionSpace
) -> None:
    rng = np.random.default_rng(len(widths) + space.n_actions)
    ruled_out = 0
    for scale in (1e-6, 1.0, 1e6):
        network = near_linear(rng, space.n_actions, widths, scale)
        solver = EnumerationArgmax(network, space)
        actions = space.enumerate(100_000)
        states = rng.normal(size=(20, STATE))
        for state, result in zip(states, solver.solve(states, SolveOptions()), strict=True):
            values = every_value(network, state, actions)
            assert result.status == "optimal"
            assert result.value == pytest.approx(values.max(), rel=1e-12)
            assert result.action is not None
            assert result.action.tolist() == actions[values.argmax()].tolist()
            assert result.nodes <= len(actions)
            ruled_out += len(actions) - result.nodes
            if result.nodes < len(actions):
                assert f"evaluated {result.nodes} of {len(actions)}" in result.message
    assert ruled_out > 0


def test_masks_are_screened_within(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list begins with what the masks leave none of: actions without the worst variables."""
    monkeypatch.setattr(enumeration, "_MISSES", 10**9)
    rng = np.random.default_rng(5)
    n = 13
    sizes = [n + STATE, 16, 16, 1]
    weights = [2 * rng.normal(size=(b, a)) / a for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(0.3, 0.3, size=b) for b in sizes[1:]]
    alone = every_value(mr.Network.from_arrays(weights, biases), np.zeros(STATE), np.eye(n))
    weights[0][:, :n] = weights[0][:, np.argsort(-alone)]
    weights[0][:, n - 4 : n] *= 4.0
    network, space = mr.Network.from_arrays(weights, biases), mr.BudgetTopK(n, 5)
    actions = space.enumerate(10_000)
    solver = mr.ArgmaxSolver(network, space, solver="enumeration")
    ruled_out = 0
    for state in rng.normal(size=(60, STATE)):
        one, zero = np.zeros(n, dtype=bool), rng.random(n) < 0.1
        one[n - 1 - rng.permutation(4)[: rng.integers(1, 3)]] = True
        zero &= ~one
        within = actions[(actions[:, one] == 1).all(axis=1) & (actions[:, zero] == 0).all(axis=1)]
        result = solver.solve(state, required=one, available=~zero)
        values = every_value(network, state, within)
        assert result.value == pytest.approx(values.max(), rel=1e-12)
        assert result.action is not None
        assert result.action.tolist() == within[values.argmax()].tolist()
        ruled_out += len(within) - result.nodes
    assert ruled_out > 0


def test_equals_are_kept_and_the_first_is_returned() -> None:
    weights = [np.vstack([np.ones(N), -np.ones(N)]), np.eye(2), np.array([[1.0, -1.0]])]
    network = mr.Network.from_arrays(weights, [np.zeros(2), np.zeros(2), [0.0]])
    result = mr.argmax(network, [], mr.BudgetTopK(N, 3), solver="enumeration")
    actions = mr.BudgetTopK(N, 3).enumerate(1000)
    first = actions[(actions.sum(axis=1) == 3).argmax()]
    assert result.value == 3.0
    assert result.action is not None
    assert result.action.tolist() == first.tolist()
    assert result.nodes < len(actions)


@pytest.mark.parametrize("widths", [(8, 6), (7, 5, 6)])
def test_functions_are_above_the_network(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    actions = mr.BudgetTopK(N, N).enumerate(1000)
    for _ in range(20):
        sizes = [N + STATE, *widths, 1]
        weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
        network = mr.Network.from_arrays(weights, [rng.normal(size=b) for b in sizes[1:]])
        states = rng.normal(size=(4, STATE))
        networks = NetworkValue(network, N).at_states(states)
        assert suits_screening(networks)
        first = weights[0][:, :N]
        products = actions @ first.T
        found = functions_above(networks, products.min(axis=0), products.max(axis=0))
        for state, coefficients, constant in zip(states, *found, strict=True):
            inside = weights[0][:, N:] @ state + network.layers[0].bias
            upper = np.maximum(products + inside, 0.0) @ coefficients + constant
            assert (upper >= every_value(network, state, actions) - 1e-9).all()


def test_a_bound_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)

    def too_low(*given: object) -> tuple[np.ndarray, np.ndarray]:
        coefficients, constants = functions_above(*given)  # type: ignore[arg-type]
        return coefficients, constants - 10.0

    monkeypatch.setattr(enumeration, "functions_above", too_low)
    with pytest.raises(CertificationError, match="above a bound"):
        mr.argmax(
            near_linear(rng, N, (8, 8)), np.zeros(STATE), mr.BudgetTopK(N, 4), solver="enumeration"
        )


def test_values_beyond_float32_are_evaluated_all() -> None:
    network = mr.Network.from_arrays(
        [np.eye(N), np.eye(N), np.ones((1, N))], [np.full(N, 1e39), np.zeros(N), [0.0]]
    )
    result = mr.argmax(network, [], mr.BudgetTopK(N, 2), solver="enumeration")
    assert result.value == pytest.approx(N * 1e39)
    assert result.nodes == 46


@pytest.mark.parametrize("kind", ["one layer", "skip of the action", "weights by state"])
def test_what_does_not_suit_is_evaluated(kind: str) -> None:
    rng = np.random.default_rng(2)
    network = near_linear(rng, N, (8,) if kind == "one layer" else (8, 8))
    networks = NetworkValue(network, N).at_states(rng.normal(size=(2, STATE)))
    first, *rest = networks.layers
    if kind == "skip of the action":
        skipped = ((-1, np.ones((1, N))), *rest[-1].inputs)
        rest[-1] = type(first)(skipped, rest[-1].bias)
    if kind == "weights by state":
        ((source, weight),) = rest[0].inputs
        rest[0] = type(first)(((source, np.stack([weight, 2 * weight])),), rest[0].bias)
    assert not suits_screening(ActionNetworks((first, *rest), N, 2))


def test_the_default_evaluates_what_bounds_leave_of_a_long_list() -> None:
    rng = np.random.default_rng(3)
    network, space = near_linear(rng, 20, (64, 64)), mr.BudgetTopK(20, 5)
    states = rng.normal(size=(3, STATE))
    solver = mr.ArgmaxSolver(network, space)
    by_search = mr.ArgmaxSolver(network, space, solver="branch_and_bound")
    together = solver.solve_batch(states)
    for state, result in zip(states, together, strict=True):
        assert result.status == "optimal"
        assert result.value == pytest.approx(by_search.solve(state).value, rel=1e-9)
    assert any("bounds leave so few" in result.message for result in together)


def test_hard_states_among_easy_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    n = 20
    first = np.hstack([rng.normal(size=(64, n)), np.full((64, 1), 20.0)])
    weights = [first, rng.normal(size=(64, 64)) + 3.0, rng.normal(size=(1, 64))]
    network = mr.Network.from_arrays(weights, [np.zeros(64), np.full(64, -90.0), [0.0]])
    space = mr.BudgetTopK(n, 5)
    states = np.array([[1.0], [-0.05], [1.0], [-0.02]])
    available = np.ones((len(states), n), dtype=bool)
    available[np.arange(len(states)), rng.permutation(n)[: len(states)]] = False
    solver = mr.ArgmaxSolver(network, space)
    starts = available & ((np.arange(n) + np.arange(len(states))[:, None]) % 7 == 0)
    begun, tried = [], AutoArgmax._tried

    def watched(self: AutoArgmax, networks: ActionNetworks, *given: Any) -> Any:
        begun.extend(given[1])
        return tried(self, networks, *given)

    monkeypatch.setattr(AutoArgmax, "_tried", watched)
    results = solver.solve_batch(states, available=available, starts=list(starts))
    assert np.array_equal(begun, starts[[1, 3]])
    actions = space.enumerate(30_000)
    for state, free, result in zip(states, available, results, strict=True):
        within = actions[(actions[:, ~free] == 0).all(axis=1)]
        assert result.status == "optimal"
        best = every_value(network, state, within).max()
        assert result.value == pytest.approx(best, rel=1e-9, abs=1e-9)
    easy = ["bounds leave so few" in result.message for result in results]
    assert easy == [True, False, True, False]


def test_values_that_overflow_behind_the_first_layer_are_evaluated_all() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.random((6, N)), rng.random((6, 6)), rng.random((1, 6)) * 1e-22]
    biases = [np.zeros(6), np.array([4e38, 0, 0, 0, 0, 0]), np.zeros(1)]
    network = mr.Network.from_arrays(weights, biases)
    result = mr.argmax(network, [], mr.BudgetTopK(N, 3), solver="enumeration")
    actions = mr.BudgetTopK(N, 3).enumerate(1000)
    assert result.value == pytest.approx(every_value(network, np.zeros(0), actions).max())
    assert result.nodes == len(actions)


@pytest.mark.parametrize("least", [0, 10**18])
def test_products_below_the_least_numbers_of_float32_are_told_apart(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enumeration, "_LEAST_SCREENED", least)
    rng = np.random.default_rng(1)
    space = mr.BudgetTopK(N, 4)
    actions = space.enumerate(1000)
    for _ in range(60):
        second = rng.normal(0.3, 1.0, (6, 6)) * 1e-22
        second[5, 5] = 1.0
        weights = [np.vstack([rng.normal(size=(5, N)) * 1e-22, np.ones(N)]), second]
        weights.append(np.append(rng.normal(size=5), 0.0)[None])
        network = mr.Network.from_arrays(weights, [np.zeros(6), np.zeros(6), np.zeros(1)])
        values = every_value(network, np.zeros(0), actions)
        result = mr.argmax(network, [], space, solver="enumeration")
        spread = values.max() - values.min()
        assert result.value == pytest.approx(values.max(), rel=1e-9, abs=1e-6 * spread)


def test_a_layer_that_nothing_leads_to_is_evaluated() -> None:
    class Own(ActionValue):
        n_actions, state_dim = 4, 1

        def at_states(self, states: np.ndarray) -> ActionNetworks:
            layers = (
                ActionLayer(((-1, np.arange(12.0).reshape(3, 4)),), np.zeros(3)),
                ActionLayer((), np.ones(2)),
                ActionLayer(((0, np.ones((1, 3))), (1, np.ones((1, 2)))), np.zeros(1)),
            )
            return ActionNetworks(layers, 4, len(states))

    for solver in ("enumeration", "auto"):
        made = mr.ArgmaxSolver(Own(), mr.BudgetTopK(4, 1), solver=solver)
        assert made.solve([0.0]).value == 23.0


def test_screening_ends_where_it_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, asked = np.random.default_rng(0), []
    left = EnumerationArgmax._left

    def counted(self: EnumerationArgmax, *given: object) -> object:
        asked.append(given)
        return left(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(EnumerationArgmax, "_left", counted)
    weights = [
        rng.normal(size=(16, N + STATE)),
        rng.normal(size=(16, 16)),
        rng.normal(size=(1, 16)),
    ]
    network = mr.Network.from_arrays(weights, [np.zeros(16), np.zeros(16), np.zeros(1)])
    solver = EnumerationArgmax(network, mr.BudgetTopK(N, 4))
    for _ in range(2):
        solver.solve(rng.normal(size=(10, STATE)), SolveOptions())
    assert len(asked) == 3
    solver.update(
        mr.Network.from_arrays([w.copy() for w in weights], [np.zeros(16), np.zeros(16), [0.0]])
    )
    solver.solve(rng.normal(size=(2, STATE)), SolveOptions())
    assert len(asked) == 5
