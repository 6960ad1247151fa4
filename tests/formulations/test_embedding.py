"""Networks in models of one's own, compared with brute force.

A MILP solver may use its tolerances, 1e-6 per constraint, in a value that `solve_model` reports.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
import torch

import milp_rl as mr

N = 6
ALL = np.array(list(itertools.product((0, 1), repeat=N)), dtype=float)


def values(network, *states):
    """Value every binary action, followed by each state's values."""
    return [
        network.forward(np.hstack([ALL, np.tile(state, (len(ALL), 1))]))[:, 0] for state in states
    ]


def solved(model):
    result = mr.solve_model(model)
    assert result.status == "optimal"
    return result.value


@pytest.fixture(params=["bigm", "partition"])
def formulation(request):
    return request.param


@pytest.mark.parametrize("seed", range(3))
def test_several_networks_in_one_model(seed, formulation, random_network):
    """One network is maximised, minus another, under a limit on a third."""
    rng = np.random.default_rng(seed)
    gain, cost, risk = (random_network(rng, N, hidden) for hidden in ((6, 5), (4,), (5, 3)))
    limit = float(np.median(values(risk, [])[0]))
    model = pyo.ConcreteModel()
    model.space = pyo.Block()
    actions = mr.BudgetTopK(N, 4).add_to(model.space)
    model.part = pyo.Block(range(3))
    outputs = [
        mr.add_network(model.part[i], network, actions, formulation=formulation)
        for i, network in enumerate((gain, cost, risk))
    ]
    model.safe = pyo.Constraint(expr=outputs[2] <= limit)
    model.objective = pyo.Objective(expr=outputs[0] - outputs[1], sense=pyo.maximize)
    feasible = (ALL.sum(axis=1) <= 4) & (values(risk, [])[0] <= limit)
    expected = (values(gain, [])[0] - values(cost, [])[0])[feasible].max()
    assert solved(model) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_shared_over_time_steps(seed, formulation, random_network):
    """The same network values two days; no action is repeated."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, N + 2, (6, 4))
    states = rng.random((2, 2))
    model = pyo.ConcreteModel()
    model.day = pyo.Block(range(2))
    outputs, actions = [], []
    for day, state in enumerate(states):
        block = model.day[day]
        block.space, block.q = pyo.Block(), pyo.Block()
        actions.append(mr.BudgetTopK(N, 2).add_to(block.space))
        outputs.append(
            mr.add_network(block.q, network, [*actions[-1], *state], formulation=formulation)
        )
    model.once = pyo.Constraint(range(N), rule=lambda m, i: actions[0][i] + actions[1][i] <= 1)
    model.objective = pyo.Objective(expr=sum(outputs), sense=pyo.maximize)
    first, second = values(network, *states)
    small = np.flatnonzero(ALL.sum(axis=1) <= 2)
    expected = max(
        first[i] + second[j]
        for i, j in itertools.product(small, small)
        if (ALL[i] + ALL[j]).max() <= 1
    )
    assert solved(model) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_value_in_a_constraint(seed, formulation, random_network):
    """The cheapest action whose value is at least v."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, N, (6, 5))
    costs = rng.random(N)
    value = values(network, [])[0]
    least = float(np.quantile(value, 0.8))
    model = pyo.ConcreteModel()
    model.a = pyo.Var(range(N), domain=pyo.Binary)
    model.q = pyo.Block()
    output = mr.add_network(model.q, network, list(model.a.values()), formulation=formulation)
    model.good = pyo.Constraint(expr=output >= least)
    model.objective = pyo.Objective(expr=sum(costs[i] * model.a[i] for i in range(N)))
    expected = (ALL @ costs)[value >= least - 1e-9].min()
    assert solved(model) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_two_stages(seed, random_network):
    """First actions are kept in every scenario, where one more can be added."""
    rng = np.random.default_rng(seed)
    network = random_network(rng, N + 1, (6, 4))
    scenarios, chance = np.array([[0.1], [0.5], [0.9]]), np.array([0.2, 0.5, 0.3])
    model = pyo.ConcreteModel()
    model.now = pyo.Block()
    first = mr.BudgetTopK(N, 2).add_to(model.now)
    model.later = pyo.Block(range(3))
    outputs = []
    for k, state in enumerate(scenarios):
        block = model.later[k]
        block.space, block.q = pyo.Block(), pyo.Block()
        actions = mr.BudgetTopK(N, 3).add_to(block.space)
        block.keep = pyo.Constraint(range(N), rule=lambda b, i, a=actions: a[i] >= first[i])
        outputs.append(mr.add_network(block.q, network, [*actions, *state]))
    expected_value = sum(p * v for p, v in zip(chance, outputs, strict=True))
    model.objective = pyo.Objective(expr=expected_value, sense=pyo.maximize)
    table = values(network, *scenarios)
    best = -np.inf
    for i in np.flatnonzero(ALL.sum(axis=1) <= 2):
        allowed = (ALL[i] <= ALL).all(axis=1) & (ALL.sum(axis=1) <= 3)
        best = max(best, sum(p * t[allowed].max() for p, t in zip(chance, table, strict=True)))
    assert solved(model) == pytest.approx(best, abs=1e-5)


class Gated(torch.nn.Module):
    """Smooth in the state, a probability."""

    def __init__(self):
        super().__init__()
        self.gate, self.head = torch.nn.Linear(2, N), torch.nn.Linear(N, 1)

    def forward(self, state, action):
        return torch.sigmoid(self.before(state, action))

    def before(self, state, action):
        return self.head((action * self.gate(state).tanh()).relu())


class Linear(Gated):
    def forward(self, state, action):
        return self.before(state, action)


def test_a_network_of_the_action_at_a_state_of_numbers():
    torch.manual_seed(0)
    network, state = Gated().double(), [0.3, -0.8]

    def added(source, given):
        model = pyo.ConcreteModel()
        model.space, model.q, space = pyo.Block(), pyo.Block(), mr.BudgetTopK(N, 3)
        model.x = pyo.Var(range(2), bounds=(0, 1))
        actions = space.add_to(model.space)
        inputs = [*actions, *(given or model.x.values())]
        value = mr.add_network(model.q, source, inputs, space=space)
        model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
        return model

    with pytest.raises(ValueError, match="ends in sigmoid") as error:
        added(network, state)
    said = {"milp_rl": mr, "network": network, "n_actions": N}
    exec(str(error.value).split("network is: ")[1], said)
    feasible = torch.tensor(ALL[ALL.sum(axis=1) <= 3])
    with torch.no_grad():
        found = network(torch.tensor([state]).double().expand(len(feasible), -1), feasible)
    assert solved(added(said["value"], state)) == pytest.approx(
        float(found.logit().max()), abs=1e-5
    )
    for source in (said["value"], Linear()):
        with pytest.raises(ValueError, match="must be numbers"):
            added(source, None)


class TestGurobi:
    """The same in gurobipy models."""

    @pytest.fixture
    def gurobipy(self):
        return pytest.importorskip("gurobipy")

    @pytest.fixture
    def model(self, gurobipy):
        with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.Model(env=env) as model:
            yield model

    @pytest.mark.parametrize("seed", range(3))
    def test_a_network_is_maximised(self, seed, formulation, gurobipy, model, random_network):
        rng = np.random.default_rng(seed)
        network = random_network(rng, N + 2, (6, 5))
        state = rng.random(2)
        a = model.addVars(N, vtype="B")
        model.addConstr(a.sum() <= 3)
        value = mr.add_network(
            model, network, [*a.values(), *state], formulation=formulation, one_sided=bool(seed % 2)
        )
        model.setObjective(value, gurobipy.GRB.MAXIMIZE)
        model.optimize()
        expected = values(network, state)[0][ALL.sum(axis=1) <= 3].max()
        assert model.ObjVal == pytest.approx(expected, abs=1e-5)
        action = np.array([v.X for v in a.values()])
        assert network.forward([*action, *state])[0] == pytest.approx(value.X, abs=1e-5)

    def test_expressions_continuous_inputs_and_a_constraint(self, gurobipy, model, random_network):
        rng = np.random.default_rng(1)
        network = random_network(rng, 3, (6,), n_outputs=2)
        x = model.addVar(lb=-1, ub=2)
        y = model.addVar(vtype="B")
        first, second = mr.add_network(model, network, [2 * x - y + 1, x, 0.5], bounds="lp")
        model.addConstr(second >= 0.0)
        model.setObjective(first, gurobipy.GRB.MAXIMIZE)
        model.optimize()
        grid = np.array(list(itertools.product(np.linspace(-1, 2, 3001), (0, 1))))
        inputs = np.column_stack([2 * grid[:, 0] - grid[:, 1] + 1, grid[:, 0], np.full(6002, 0.5)])
        outputs = network.forward(inputs)
        expected = outputs[outputs[:, 1] >= 0, 0].max()
        assert model.ObjVal == pytest.approx(expected, abs=5e-3)
        assert expected - 1e-6 <= model.ObjVal

    def test_wrong_inputs_are_named(self, model, random_network):
        network = random_network(np.random.default_rng(0), 2, (3,))
        free = model.addVar(lb=-float("inf"))
        with pytest.raises(ValueError, match="input 1 has bounds"):
            mr.add_network(model, network, [1.0, free])
        with pytest.raises(ValueError, match="takes 2 inputs, got 1"):
            mr.add_network(model, network, [1.0])
        with pytest.raises(ValueError, match="first inputs must be its action variables"):
            mr.add_network(model, network, [1.0, 2.0], space=mr.BudgetTopK(2, 1))

    def test_numbers_that_are_not_finite_and_domains_with_gaps_are_named(
        self, gurobipy, model, random_network
    ):
        network = random_network(np.random.default_rng(0), 2, (3,))
        x = model.addVar(lb=0, ub=1)
        gap = model.addVar(lb=1, ub=2, vtype=gurobipy.GRB.SEMICONT, name="dose")
        with pytest.raises(ValueError, match="dose is semi-continuous"):
            mr.add_network(model, network, [x, gap])
        with pytest.raises(ValueError, match=r"input 1 has bounds \(nan, nan\)"):
            mr.add_network(model, network, [x, float("nan")])
        with pytest.raises(ValueError, match="input 1 has bounds"):
            mr.add_network(model, network, [x, float("inf") * x])
