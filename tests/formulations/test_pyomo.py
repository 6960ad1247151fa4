"""Networks embedded in Pyomo models, against brute force."""

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest

from milp_rl.formulations.embedding import add_network
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces import BudgetTopK
from milp_rl.solvers.models.solve import solve_model

CASES = list(itertools.product(("bigm", "partition"), ("interval", "linear", "lp")))


@pytest.mark.parametrize(("formulation", "bounds"), CASES)
@pytest.mark.parametrize("seed", range(4))
def test_every_formulation_and_bound_gives_the_brute_force_optimum(
    seed, formulation, bounds, random_network
):
    rng = np.random.default_rng(seed)
    n, state = int(rng.integers(3, 8)), rng.normal(size=2)
    hidden = tuple(int(h) for h in rng.integers(2, 7, size=rng.integers(1, 3)))
    network = random_network(rng, n + 2, hidden)
    space = BudgetTopK(n, 2, exactly=bool(seed % 2))
    values = network.at_state(state).forward(space.enumerate())[:, 0]
    for sense, best in ((pyo.maximize, values.max()), (pyo.minimize, values.min())):
        for known_space, one_sided in ((None, False), (space, False), (space, True)):
            if one_sided and sense == pyo.minimize:
                continue
            m = pyo.ConcreteModel()
            m.visit = pyo.Block()
            a = space.add_to(m.visit)
            m.q = pyo.Block()
            value = add_network(
                m.q,
                network,
                [*a, *state],
                formulation=formulation,
                partitions=int(rng.integers(1, 4)),
                bounds=bounds,
                space=known_space,
                one_sided=one_sided,
            )
            m.objective = pyo.Objective(expr=value, sense=sense)
            for solver in ("highs", "gurobi"):
                result = solve_model(m, solver=solver)
                assert result.status == "optimal"
                assert result.value == pytest.approx(best, abs=1e-5)
                action = [pyo.value(v) for v in a]
                assert space.violations(action) == []
                assert network.at_state(state).forward(action)[0] == pytest.approx(best, abs=1e-6)


def test_continuous_inputs_and_a_network_in_a_constraint():
    """max x + y subject to |x| + |y| <= 1, the norm as a ReLU network, x and y in [-2, 2]."""
    norm = Network.from_arrays([[[1, 0], [-1, 0], [0, 1], [0, -1]], [[1, 1, 1, 1]]], [[0] * 4, [0]])
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(-2, 2))
    m.y = pyo.Var(bounds=(-2, 2))
    m.norm = pyo.Block()
    value = add_network(m.norm, norm, [m.x, m.y])
    m.limit = pyo.Constraint(expr=value <= 1)
    m.objective = pyo.Objective(expr=2 * m.x + m.y, sense=pyo.maximize)
    result = solve_model(m)
    assert result.value == pytest.approx(2.0)
    assert pyo.value(m.x) == pytest.approx(1.0)
    assert pyo.value(value) == pytest.approx(1.0)


def test_inputs_away_from_zero_are_added_without_a_word(random_network, caplog):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(2, 3))
    m.q = pyo.Block()
    network = random_network(np.random.default_rng(0), 1, (3,))
    value = add_network(m.q, network, [m.x])
    assert caplog.text == ""
    m.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    result = solve_model(m)
    assert result.value == pytest.approx(network.forward([pyo.value(m.x)])[0], abs=1e-6)
    assert result.value >= network.forward(np.linspace(2, 3, 101)[:, None]).max() - 1e-6


def test_several_outputs_and_expressions_as_inputs(random_network):
    rng = np.random.default_rng(3)
    network = random_network(rng, 3, (5,), 2)
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(2), domain=pyo.Binary)
    m.q = pyo.Block()
    first, second = add_network(m.q, network, [m.a[0], 2 * m.a[0] - m.a[1], 0.5])
    m.objective = pyo.Objective(expr=first - 3 * second, sense=pyo.minimize)
    result = solve_model(m)
    points = [(a, 2 * a - b, 0.5) for a, b in itertools.product((0, 1), repeat=2)]
    best = min(first - 3 * second for first, second in network.forward(points))
    assert result.value == pytest.approx(best, abs=1e-7)


def test_a_network_can_be_used_twice_in_one_model(random_network):
    rng = np.random.default_rng(5)
    network = random_network(rng, 6, (6,))
    space = BudgetTopK(4, 2)
    states = rng.normal(size=(2, 2))
    m = pyo.ConcreteModel()
    m.team = pyo.Block(range(2))
    m.q = pyo.Block(range(2))
    values, actions = [], []
    for t in range(2):
        a = space.add_to(m.team[t])
        actions.append(a)
        values.append(add_network(m.q[t], network, [*a, *states[t]], space=space))
    m.once = pyo.Constraint(range(4), rule=lambda _, i: actions[0][i] + actions[1][i] <= 1)
    m.objective = pyo.Objective(expr=sum(values), sense=pyo.maximize)
    result = solve_model(m)
    listed = space.enumerate()
    q = [network.at_state(s).forward(listed)[:, 0] for s in states]
    best = max(
        q[0][i] + q[1][j]
        for i, a in enumerate(listed)
        for j, b in enumerate(listed)
        if not (a & b).any()
    )
    assert result.value == pytest.approx(best, abs=1e-6)


def test_neurons_proven_on_or_off_lose_their_binary():
    network = Network.from_arrays(
        [[[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0, 1.0]]], [[5.0, -5.0, 0.0], [0.0]]
    )
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(2), domain=pyo.Binary)
    m.q = pyo.Block()
    add_network(m.q, network, list(m.a.values()))
    binaries = [v for v in m.q.component_data_objects(pyo.Var) if v.is_binary() and not v.fixed]
    assert len(binaries) == 1


def test_wrong_inputs_are_named(random_network):
    network = random_network(np.random.default_rng(0), 2, (3,))
    m = pyo.ConcreteModel()
    m.x = pyo.Var()
    m.y = pyo.Var(bounds=(0, 1))
    m.z = pyo.Var(bounds=(0, 1), initialize=3)
    m.z.fix()
    m.q = pyo.Block(range(9))
    with pytest.raises(ValueError, match="takes 2 inputs, got 1"):
        add_network(m.q[0], network, [m.y])
    with pytest.raises(ValueError, match=r"input 0 \(x\) has bounds .*; give it finite bounds"):
        add_network(m.q[1], network, [m.x, m.y])
    with pytest.raises(ValueError, match=r"input 1 \(z\) is fixed to 3, outside its bounds"):
        add_network(m.q[2], network, [m.y, m.z])
    with pytest.raises(ValueError, match="input 1 is nan"):
        add_network(m.q[3], network, [m.y, float("nan")])
    with pytest.raises(ValueError, match="all inputs are numbers"):
        add_network(m.q[4], network, [1.0, 2.0])
    with pytest.raises(ValueError, match="'bigm' or 'partition', got 'hull'"):
        add_network(m.q[5], network, [m.y, 1.0], formulation="hull")
    with pytest.raises(ValueError, match="its action variables"):
        add_network(m.q[6], network, [1.0, m.y], space=BudgetTopK(1, 1))
    with pytest.raises(ValueError, match="one output"):
        add_network(
            m.q[7],
            random_network(np.random.default_rng(0), 2, (3,), 2),
            [m.y, 1.0],
            one_sided=True,
        )
