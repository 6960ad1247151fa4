"""What if a variable were forced, or a limit larger: every block against all its actions."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr

STATE = np.array([0.3, -1.0])
PATHS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
SPACES = {
    "top k": mr.BudgetTopK(7, 3),
    "exactly k": mr.BudgetTopK(6, 3, exactly=True),
    "budget": mr.BudgetTopK(7, 7, costs=[1, 2, 3, 1, 2, 3, 2], budget=5.5),
    "capacity": mr.Capacity([2, 3, 4, 2, 5, 3], [5, 4]),
    "scheduling": mr.Scheduling(
        [[1, 1, 0, 1], [0, 1, 1, 1]], [[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1]] * 2, budget=3
    ),
    "visits in one": mr.Scheduling(
        [[1, 1, 1, 0], [0, 1, 1, 1]],
        [[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]],
        durations=[1, 2, 3, 2],
    ),
    "routing": mr.Routing(nx.cycle_graph(7), 0, 6, 3),
    "factored": mr.FactoredValidity(
        {"how": ["a", "b"], "who": ["c", "d"]}, n_decision_makers=2, caps={"how": {"a": 1}}
    ),
    "matching": mr.Matching(np.ones((2, 3)), max_pairs=1),
    "permutation": mr.Permutation(3),
    "precedence": mr.Precedence(7, [(0, 1), (1, 2), (1, 3), (4, 3), (6, 5)]),
    "simple path": mr.SimplePath(nx.DiGraph([*PATHS, (3, 1)]), 0, 5),
    "intersection": mr.BudgetTopK(6, 2) & mr.Capacity([2, 3, 4, 2, 5, 3], [5, 4]),
    "product": mr.Product([mr.BudgetTopK(4, 2), mr.BudgetTopK(3, 1)], names=["calls", "visits"]),
    "rows": mr.Box([0] * 5, [1] * 5, matrix=[[2, 1, 3, 1, 2]], right=[4], binary=range(5)),
}
LIMITS = {
    "top k": {"k"},
    "exactly k": {"k"},
    "budget": {"budget"},
    "capacity": {"capacity of worker 0", "capacity of worker 1"},
    "scheduling": {"budget", "slot 0", "slot 1", "slot 2", "slot 3"},
    "visits in one": {"slot 0", "slot 1", "slot 2", "slot 3"},
    "routing": {"max_length", "budget"},
    "factored": {"cap of how a"},
    "matching": {"max_pairs"},
    "intersection": {
        "BudgetTopK: k",
        "Capacity: capacity of worker 0",
        "Capacity: capacity of worker 1",
    },
    "product": {"calls: k", "visits: k"},
    "rows": {"constraint 0"},
}
SENSES = {"maximize": np.max, "minimize": np.min}


def values(network, actions):
    return network.at_state(STATE).forward(actions)[:, 0]


def check(result, network, actions, best):
    """Check that a result is the best of some actions."""
    if not len(actions):
        assert (result.status, result.action) == ("infeasible", None)
        return
    assert result.status == "optimal"
    assert any((actions == result.action).all(axis=1))
    assert result.value == pytest.approx(best(values(network, actions)), rel=0, abs=2e-6)


@pytest.mark.parametrize("solver", ["auto", "enumeration", "branch_and_bound", "highs"])
@pytest.mark.parametrize("name", SPACES)
def test_every_side_and_every_price_is_that_of_all_actions(name, solver, random_network):
    space = SPACES[name]
    sense = ("maximize", "minimize")[list(SPACES).index(name) % 2]
    best = SENSES[sense]
    network = random_network(np.random.default_rng(1), space.n_actions + 2, (8, 6))
    answers = mr.ArgmaxSolver(network, space, solver=solver, sense=sense).what_if(STATE)
    actions = space.enumerate()
    check(answers.result, network, actions, best)
    assert answers.exact
    assert answers.variables == tuple(range(space.n_actions))
    for i in range(space.n_actions):
        check(answers.forced_in[i], network, actions[actions[:, i] == 1], best)
        check(answers.forced_out[i], network, actions[actions[:, i] == 0], best)
    assert set(answers.limits) == LIMITS.get(name, set())
    for limit, result in answers.limits.items():
        check(result, network, space.limits()[limit].enumerate(), best)


def larger(name):
    """The sets with one unit more of each limit, written out."""
    return {
        "top k": [mr.BudgetTopK(7, 4)],
        "exactly k": [mr.BudgetTopK(6, 4, exactly=True)],
        "budget": [mr.BudgetTopK(7, 7, costs=[1, 2, 3, 1, 2, 3, 2], budget=6.5)],
        "capacity": [mr.Capacity([2, 3, 4, 2, 5, 3], c) for c in ([6, 4], [5, 5])],
        "routing": [mr.Routing(nx.cycle_graph(7), 0, *m) for m in ((7, 3), (6, 4))],
        "matching": [mr.Matching(np.ones((2, 3)), max_pairs=2)],
        "product": [
            mr.BudgetTopK(4, 3) * mr.BudgetTopK(3, 1),
            mr.BudgetTopK(4, 2) * mr.BudgetTopK(3, 2),
        ],
    }[name]


@pytest.mark.parametrize(
    "name", ["top k", "exactly k", "budget", "capacity", "routing", "matching", "product"]
)
def test_a_limit_is_one_unit_larger(name):
    found = list(SPACES[name].limits().values())
    assert len(found) == len(larger(name))
    for space, expected in zip(found, larger(name), strict=True):
        np.testing.assert_array_equal(space.enumerate(), expected.enumerate())


def test_a_slot_more_is_a_worker_more_in_it():
    space = mr.Scheduling([[1, 0], [1, 0]], [[1, 0], [1, 0], [1, 0], [0, 1]], needs=1)
    more = space.limits()
    assert space.violations([1, 1, 1, 0])
    assert more["slot 0"].violations([1, 1, 1, 0]) == []
    assert more["slot 0"].violations([0, 0, 0, 1])
    assert more["slot 1"].violations([1, 1, 0, 1]) == []


@pytest.mark.parametrize("solver", ["auto", "branch_and_bound", "highs"])
def test_masks_and_a_space_of_the_day_hold(solver, random_network):
    network = random_network(np.random.default_rng(3), 8, (8, 6))
    today = mr.BudgetTopK(6, 3)
    available, required = np.arange(6) != 2, np.arange(6) == 4
    asked = mr.ArgmaxSolver(network, mr.BudgetTopK(6, 2), solver=solver)
    answers = asked.what_if(STATE, available=available, required=required, space=today)
    assert answers.variables == (0, 1, 3, 5)
    left = today.enumerate()
    left = left[(left[:, 2] == 0) & (left[:, 4] == 1)]
    for i, own, out in zip(answers.variables, answers.forced_in, answers.forced_out, strict=True):
        check(own, network, left[left[:, i] == 1], np.max)
        check(out, network, left[left[:, i] == 0], np.max)
    more = mr.BudgetTopK(6, 4).enumerate()
    more = more[(more[:, 2] == 0) & (more[:, 4] == 1)]
    check(answers.limits["k"], network, more, np.max)
    with pytest.raises(ValueError, match="no best action to compare with: infeasible"):
        asked.what_if(STATE, required=np.ones(6))


def test_only_binary_variables_are_forced(random_network):
    space = mr.Box([0, 0, 0], [1, 2, 1], matrix=[[1, 1, 1]], right=[2.5], binary=[0, 2])
    network = random_network(np.random.default_rng(3), 5, (6,))
    answers = mr.ArgmaxSolver(network, space).what_if(STATE)
    assert answers.variables == (0, 2)
    for i, own, out in zip(answers.variables, answers.forced_in, answers.forced_out, strict=True):
        assert (own.action[i], out.action[i]) == (1, 0)
        for result in (own, out):
            low, high = np.array([0.0, 0, 0]), np.array([1.0, 2, 1])
            low[i] = high[i] = result.action[i]
            held = mr.Box(low, high, matrix=[[1, 1, 1]], right=[2.5], binary=[0, 2])
            again = mr.argmax(network, STATE, held)
            assert result.value == pytest.approx(again.value, abs=1e-6)


def test_tables_have_the_values_and_what_they_differ_by(random_network):
    space = SPACES["capacity"] & mr.BudgetTopK(6, 6, costs=[0, 0, 0, 0, 0, 1], budget=0)
    network = random_network(np.random.default_rng(1), 8, (8, 6))
    for sense, sign in (("maximize", 1), ("minimize", -1)):
        answers = mr.ArgmaxSolver(network, space, sense=sense).what_if(STATE)
        best, table, prices = answers.result, answers.variable_table(), answers.limit_table()
        assert list(table.index) == list(range(6))
        np.testing.assert_array_equal(table["chosen"], best.action == 1)
        assert table.loc[5, "status_in"] == "infeasible"
        assert table.loc[5, ["value_in", "bound_in", "loss", "loss_bound"]].isna().all()
        for i in range(5):
            row = table.loc[i]
            other = row["value_out"] if row["chosen"] else row["value_in"]
            assert row["loss"] == pytest.approx(sign * (best.value - other))
            assert -1e-6 <= row["loss_bound"] <= row["loss"] + 1e-9
            assert row["value_in" if row["chosen"] else "value_out"] == best.value
        for name, row in prices.iterrows():
            assert row["price"] == pytest.approx(sign * (answers.limits[name].value - best.value))
            assert row["price"] <= row["price_bound"] + 1e-9
        assert (prices["price"] >= -1e-6).all()
        assert "loss" in str(answers)
        assert "price" in str(answers)


@pytest.mark.parametrize("solver", ["gurobi", "scip"])
@pytest.mark.parametrize("name", ["intersection", "scheduling"])
def test_other_milp_solvers_answer_the_same(name, solver, random_network):
    pytest.importorskip({"gurobi": "gurobipy", "scip": "pyscipopt"}[solver])
    space = SPACES[name]
    network = random_network(np.random.default_rng(1), space.n_actions + 2, (5,))
    today = {"available": np.arange(space.n_actions) != 1}
    answers = mr.ArgmaxSolver(network, space, solver=solver).what_if(STATE, **today)
    others = mr.ArgmaxSolver(network, space, solver="enumeration").what_if(STATE, **today)
    assert answers.exact
    for found, expected in (
        (answers.variable_table(), others.variable_table()),
        (answers.limit_table(), others.limit_table()),
    ):
        columns = ["value_in", "value_out", "loss"] if "loss" in found else ["value", "price"]
        np.testing.assert_allclose(found[columns], expected[columns], atol=4e-6)


def test_limits_of_members_of_members_are_reached_by_name(random_network):
    homes = mr.Intersection(
        [mr.BudgetTopK(4, 2), mr.Capacity([1, 2, 1, 2], [2, 2])], names=["visits", None]
    )
    day = mr.Product([mr.BudgetTopK(3, 1), homes], names=["calls", "homes"])
    night = mr.BudgetTopK(7, 2)
    space = day & night
    worker = "Product: homes: Capacity: capacity of worker"
    names = ["Product: calls: k", "Product: homes: visits: k", f"{worker} 0", f"{worker} 1"]
    assert list(space.limits()) == [*names, "BudgetTopK: k"]
    network = random_network(np.random.default_rng(1), 9, (8,))
    answers = mr.ArgmaxSolver(network, space).what_if(STATE)
    everything = np.array(list(np.ndindex(*[2] * 7)))
    calls, chosen = everything[:, :3].sum(axis=1), everything.sum(axis=1)
    visits, load = everything[:, 3:].sum(axis=1), everything[:, 3:] @ [1, 2, 1, 2]
    pairs = everything[:, 4] * everything[:, 6]  # two long visits need a worker each
    fits = {
        "Product: calls: k": (calls <= 2) & (visits <= 2) & (load <= 4) & (chosen <= 2),
        "Product: homes: visits: k": (calls <= 1) & (visits <= 3) & (chosen <= 2),
        "BudgetTopK: k": (calls <= 1) & (visits <= 2) & (load <= 4) & (chosen <= 3),
    }
    assert pairs.any()
    for name, feasible in fits.items():
        check(answers.limits[name], network, everything[feasible], np.max)


def unproven(space, network, **options):
    """Check what bounds say, against actions that are drawn, in an answer that is not exact."""
    answers = mr.ArgmaxSolver(network, space, **options).what_if(STATE)
    assert not answers.exact
    drawn = space.sample(np.random.default_rng(0), 300)
    known = values(network, drawn)
    found = [r for r in (*answers.forced_in, *answers.forced_out) if r.action is not None]
    assert answers.result.value == max(r.value for r in found)
    for i in range(space.n_actions):
        for result, side in ((answers.forced_in[i], 1), (answers.forced_out[i], 0)):
            assert result.bound >= known[drawn[:, i] == side].max(initial=-np.inf)
            assert result.bound <= answers.result.bound
            if result.action is not None:
                assert result.action[i] == side
                assert result.value == pytest.approx(values(network, result.action[None])[0])
            if answers.result.action[i] == side:
                assert result.value == answers.result.value
    assert answers.limits["k"].bound >= known.max()
    table = answers.variable_table()
    assert (table["loss_bound"] >= 0).all()
    assert (table["loss"].dropna() >= 0).all()
    return answers


@pytest.mark.parametrize("solver", ["branch_and_bound", "highs"])
def test_a_limit_of_nodes_leaves_bounds(solver, random_network):
    network = random_network(np.random.default_rng(4), 14, (12, 12))
    unproven(mr.BudgetTopK(12, 5), network, solver=solver, node_limit=1)


def test_a_gap_that_is_asked_for_is_not_exact(random_network):
    network = random_network(np.random.default_rng(4), 14, (12, 12))
    answers = unproven(mr.BudgetTopK(12, 5), network, solver="branch_and_bound", gap=0.5)
    assert answers.result.status == "optimal"


def test_what_the_time_does_not_reach_is_bounded(random_network, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("milp_rl.what_if.perf_counter", lambda: next(clock))
    network = random_network(np.random.default_rng(4), 8, (8,))
    solver = mr.ArgmaxSolver(network, mr.BudgetTopK(6, 2), solver="enumeration")
    answers = solver.what_if(STATE, time_limit=3.0)
    sides = [answers.forced_in, answers.forced_out]
    others = [sides[int(a)][i] for i, a in enumerate(answers.result.action)]
    assert [r.status for r in others] == ["optimal"] * 2 + ["no_solution"] * 4
    assert all(r.bound == answers.result.bound and r.action is None for r in others[2:])
    assert (answers.limits["k"].status, answers.limits["k"].bound) == ("no_solution", np.inf)
    assert "no_solution" in str(answers)
    assert not answers.exact


@pytest.mark.parametrize("sense", ["maximize", "minimize"])
def test_values_are_those_after_a_link(sense, random_network):
    network = random_network(np.random.default_rng(1), 8, (8,))
    linked = dataclasses.replace(network, link="sigmoid")
    space = SPACES["intersection"]
    solvers = (mr.ArgmaxSolver(q, space, sense=sense) for q in (network, linked))
    plain, after = (solver.what_if(STATE) for solver in solvers)
    assert after.exact
    for column in ("value_in", "value_out"):
        expected = 1 / (1 + np.exp(-plain.variable_table()[column]))
        np.testing.assert_allclose(after.variable_table()[column], expected, atol=1e-6)
    assert (after.limit_table()["price"] >= -1e-6).all()


def bars(axes):
    return [bar.get_width() for bar in axes.patches]


def test_the_chart_has_the_smallest_losses_and_the_prices(random_network):
    network = random_network(np.random.default_rng(1), 42, (8,))
    space = mr.BudgetTopK(40, 4)
    answers = mr.ArgmaxSolver(network, space).what_if(STATE)
    losses, prices = answers.plot().axes
    shown = np.sort(answers.variable_table()["loss"])[:30]
    np.testing.assert_allclose(bars(losses), shown)
    np.testing.assert_allclose(bars(prices), answers.limit_table()["price"])
    alone = mr.ArgmaxSolver(
        random_network(np.random.default_rng(1), 5, (4,)), mr.Box([0] * 3, [1] * 3)
    )
    assert alone.what_if(STATE).plot().axes
    assert alone.what_if(STATE).variable_table().empty


def test_of_whole_numbers_only_the_binary_ones_are_forced(random_network):
    rows = [[-9.0, 0.0, 1.0, 0.0], [0.0, -9.0, 0.0, 1.0]]  # quantities of what is chosen
    bounds = [0] * 4, [1, 1, 9, 9]
    space = mr.Box(*bounds, matrix=[*rows, [1, 1, 0, 0]], right=[0, 0, 1], integer=range(4))
    network = random_network(np.random.default_rng(3), 4, (6,))
    answers = mr.ArgmaxSolver(network, space).what_if(None)
    assert answers.variables == (0, 1)
    actions = space.enumerate()
    values = network.forward(actions)[:, 0]
    for i, own in enumerate(answers.forced_in):
        assert own.value == pytest.approx(values[actions[:, i] == 1].max(), abs=1e-6)
