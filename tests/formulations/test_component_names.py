"""Rows and variables of a user's model stay what they are, whatever their names."""

from __future__ import annotations

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr

SPACES = {
    "budget": mr.BudgetTopK(4, 2, costs=[1, 2, 3, 4], budget=5),
    "capacity": mr.Capacity([2, 3, 2, 4], [4, 3]),
    "box": mr.Box([0] * 4, [1] * 4, matrix=[[1, 1, 1, 1]], right=[2], binary=range(4)),
    "matching": mr.Matching([[1, 1], [1, 1]]),
    "union": mr.BudgetTopK(4, 1) | mr.BudgetTopK(4, 2, exactly=True),
    "intersection": mr.BudgetTopK(4, 2) & mr.Capacity([2, 3, 2, 4], [4, 3]),
}


def network(seed, random_network, n=4):
    return random_network(np.random.default_rng(seed), n, (6, 5))


def model_of(n=4):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), domain=pyo.Binary)
    return model


def solved(model, value):
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    result = mr.solve_model(model)
    assert result.status == "optimal"
    assert mr.check_solution(model) == []
    return result.value, np.rint([pyo.value(v) for v in model.x.values()])


@pytest.mark.parametrize("first", ["row", "network"])
@pytest.mark.parametrize("name", ["link", "omlt", "trees", "rewritten"])
def test_a_row_keeps_its_name_beside_a_network(name, first, random_network):
    net = network(0, random_network)
    model = model_of()
    steps = {
        "row": lambda: model.add_component(name, pyo.Constraint(expr=model.x[1] + model.x[2] <= 0)),
        "network": lambda: setattr(
            model, "value", pyo.Expression(expr=mr.add_network(model, net, [*model.x.values()]))
        ),
    }
    for step in (first, *steps.keys() - {first}):
        steps[step]()
    value, x = solved(model, model.value)
    allowed = [a for a in itertools.product((0, 1), repeat=4) if a[1] + a[2] == 0]
    assert value == pytest.approx(net.forward(np.array(allowed, dtype=float)).max(), abs=1e-6)
    assert x[1] + x[2] == 0


@pytest.mark.parametrize("where", ["model", "block"])
def test_two_networks_on_one_model_or_block_are_both_kept(where, random_network):
    nets = [network(seed, random_network) for seed in (1, 2)]
    model = model_of()
    model.q = pyo.Block()
    on = model if where == "model" else model.q
    outputs = [mr.add_network(on, net, [*model.x.values()]) for net in nets]
    everything = np.array([*itertools.product((0, 1), repeat=4)], dtype=float)
    first, second = (net.forward(everything)[:, 0] for net in nets)
    limit = float(np.median(second))
    model.limit = pyo.Constraint(expr=outputs[1] <= limit)
    value, _ = solved(model, outputs[0])
    assert value == pytest.approx(first[second <= limit + 1e-9].max(), abs=1e-6)
    assert len(mr.check_solution(model)) == 0
    outputs[1].value += 1.0
    assert any("network" in text for text in mr.check_solution(model))


def test_a_network_and_trees_share_a_model(random_network):
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(200, 4))
    trees = DecisionTreeRegressor(max_depth=3, random_state=0).fit(x, x @ [3.0, -2.0, 1.0, 4.0])
    net = network(3, random_network)
    model = model_of()
    outputs = [mr.add_network(model, source, [*model.x.values()]) for source in (trees, net, trees)]
    value, _ = solved(model, sum(outputs))
    everything = np.array([*itertools.product((0, 1), repeat=4)], dtype=float)
    true = net.forward(everything)[:, 0] + 2 * trees.predict(everything)
    assert value == pytest.approx(true.max(), abs=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_rows_of_a_space_replace_nothing_and_are_replaced_by_nothing(name):
    space = SPACES[name]
    scratch = pyo.ConcreteModel()
    scratch.x = pyo.Var(range(4), domain=pyo.Binary)
    scratch.own = pyo.Block()
    space.constrain(scratch.own, [*scratch.x.values()])
    weights = np.array([4.0, 3.0, 2.0, 1.0])
    best = max((a for a in space.enumerate() if not a[0]), key=lambda a: weights @ a)
    for taken, before in itertools.product([*scratch.own.component_map()], (True, False)):
        model = model_of()
        if before:
            model.add_component(taken, pyo.Constraint(expr=model.x[0] <= 0))
        assert space.add_to(model, [*model.x.values()]) == [*model.x.values()]
        if not before:
            model.add_component(taken, pyo.Constraint(expr=model.x[0] <= 0))
        value, _ = solved(model, sum(w * v for w, v in zip(weights, model.x.values(), strict=True)))
        assert value == pytest.approx(weights @ best)


def test_two_spaces_on_one_model_both_hold_and_are_both_checked():
    model = model_of()
    for space in (mr.BudgetTopK(4, 1), mr.BudgetTopK(4, 2), mr.Precedence(4, [(3, 0)])):
        space.add_to(model, [*model.x.values()])
    value, x = solved(model, sum((i + 1) * model.x[i] for i in range(4)))
    assert value == 4
    np.testing.assert_array_equal(x, [0, 0, 0, 1])
    for i in range(4):
        model.x[i].value = 1
    assert len([text for text in mr.check_solution(model) if "BudgetTopK" in text]) == 2


def test_constrain_refuses_to_replace_a_row_and_leaves_the_model_as_it_was():
    model = model_of()
    mr.BudgetTopK(4, 1).constrain(model, [*model.x.values()])
    row = model.cardinality
    with pytest.raises(ValueError, match=r"'cardinality' already.*BudgetTopK"):
        mr.BudgetTopK(4, 2, costs=[1] * 4, budget=3).constrain(model, [*model.x.values()])
    assert model.cardinality is row
    assert model.component("cost") is None
    value, _ = solved(model, sum(model.x.values()))
    assert value == 1


def test_variables_are_not_made_twice():
    model = pyo.ConcreteModel()
    mr.BudgetTopK(3, 1).add_to(model)
    variables = [*model.action.values()]
    with pytest.raises(ValueError, match="'action' already"):
        mr.BudgetTopK(3, 2).add_to(model)
    assert [*model.action.values()] == variables
