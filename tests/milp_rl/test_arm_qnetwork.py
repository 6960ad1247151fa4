"""The Q-network of arms: its formula, its argmax, its symmetries."""

import numpy as np
import pytest
import torch

import milp_rl as mr

KINDS = {
    "plain": {},
    "the whole state": {"context": "state"},
    "two layers": {"head": (6, 4)},
    "by feature": {"layout": "feature", "shared_features": 3},
    "equivariant": {"identity": False, "shared_features": 2},
    "neighbours": {"neighbours": np.arange(36).reshape(6, 6) % 5, "encoder": (8, 7, 6)},
    "two actions an arm": {"arm_actions": 2},
    "two actions an arm, by feature": {"arm_actions": 2, "layout": "feature"},
    "shared features alone": {"arm_features": 0, "shared_features": 4},
}


def made(kind, n_arms=6, seed=0, **more):
    options = {"arm_features": 2, "encoder": (8, 6), "head": (5,), **KINDS[kind], **more}
    generator = torch.Generator().manual_seed(seed)
    return mr.ArmQNetwork(n_arms, generator=generator, **options)


def sigma(x):
    return x / (1 + np.exp(-x))


def by_hand(network, state, action):
    """The value, arm by arm, from the docstring's formula."""
    w = {k: v.double().numpy() for k, v in network.state_dict().items()}
    n, f = network.n_arms, network.arm_features
    own = []
    for j in range(n):
        x = state[j * f : j * f + f] if network.layout == "arm" else state[j : n * f : n]
        z = w["own.weight"] @ x + w["own.bias"] if f else 0.0
        own.append(z + (w["arms"][j] if "arms" in w else 0.0))
    seen = state if network.context == "state" else np.mean([sigma(z) for z in own], axis=0)
    rest = w["others.weight"] @ seen
    if network.shared_features:
        rest = rest + w["shared.weight"] @ state[n * f :]
    h = [sigma(z + rest) for z in own]
    for i in range(len(network.encoder) - 1):
        weight, bias = w[f"deeper.{i}.weight"], w[f"deeper.{i}.bias"]
        z = [weight @ x + bias for x in h]
        if "near" in w:
            near = [sum(w["near"][j, k] * h[k] for k in range(n)) for j in range(n)]
            z = [own + w[f"messages.{i}.weight"] @ m for own, m in zip(z, near, strict=True)]
        h = [sigma(x) for x in z]
    pooled = sigma(w["pooled.weight"] @ np.mean(h, axis=0) + w["pooled.bias"])
    y = w["threshold.weight"] @ pooled + w["threshold.bias"]
    q = w["value.weight"] @ pooled + w["value.bias"]
    m = network.arm_actions
    for j in range(n):
        for k in range(m):
            a = action[j * m + k] if network.layout == "arm" else action[k * n + j]
            rows = slice(k * network.head[0], (k + 1) * network.head[0])
            y = y + a * (w["sums.weight"][rows] @ h[j])
            q = q + a * (w["direct.weight"][k] @ h[j])
    y = np.maximum(y, 0)
    if len(network.head) == 2:
        y = np.maximum(w["second.weight"] @ y + w["second.bias"], 0)
    return (q + w["output.weight"] @ y)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_formula(kind):
    network, rng = made(kind), np.random.default_rng(1)
    n = network.action_dim
    value = mr.to_action_value(network, n)
    states, actions = rng.normal(size=(9, network.state_dim)), rng.integers(0, 2, (9, n))
    expected = [by_hand(network, s, a) for s, a in zip(states, actions, strict=True)]
    np.testing.assert_allclose(value.values(states, actions.astype(float)), expected, rtol=1e-10)
    with torch.no_grad():
        q = network.q(torch.from_numpy(states), torch.from_numpy(actions))
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_worth_the_same_whatever_states_are_beside_it(kind):
    network, rng = made(kind), np.random.default_rng(2)
    value = mr.to_action_value(network, network.action_dim)
    states, action = rng.normal(size=(17, network.state_dim)), np.ones(network.action_dim)
    together = value.at_states(states)
    for i, state in enumerate(states):
        assert together.at(i).forward(action)[0] == value.at_state(state).forward(action)[0]


@pytest.mark.parametrize("solver", ["branch_and_bound", "enumeration", "highs", "gurobi", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_solver_finds_the_optimum(kind, solver):
    network, rng = made(kind, seed=3), np.random.default_rng(3)
    n = network.action_dim
    space = mr.BudgetTopK(n, 3) & mr.Capacity([2, 1, 3, 2, 1, 2] * (n // 6), [3, 3])
    states = rng.normal(size=(3, network.state_dim))
    results = mr.ArgmaxSolver(network, space, solver=solver).solve_batch(states)
    for state, result in zip(states, results, strict=True):
        best = max(by_hand(network, state, action) for action in space.enumerate())
        assert result.status == "optimal"
        assert result.value == pytest.approx(best, abs=1e-7)


def test_permuted_arms_have_permuted_values_in_an_equivariant_network():
    network, rng = made("equivariant"), np.random.default_rng(4)
    value = mr.to_action_value(network, 6)
    state, action = rng.normal(size=14), np.array([1.0, 0, 0, 1, 1, 0])
    order = rng.permutation(6)
    moved = np.concatenate([state[:12].reshape(6, 2)[order].ravel(), state[12:]])
    assert value.values(moved[None], action[None, order]) == pytest.approx(
        value.values(state[None], action[None])
    )


def test_an_equivariant_network_takes_other_numbers_of_arms():
    network = made("equivariant")
    wide = network.for_arms(12)
    # Twice the same arms have the same mean, and what is chosen of the first is worth the same.
    state, action = np.random.default_rng(5).normal(size=14), np.array([1.0, 0, 0, 1, 1, 0])
    twice = np.concatenate([np.tile(state[:12], 2), state[12:]])
    expected = mr.to_action_value(network, 6).values(state[None], action[None])
    found = mr.to_action_value(wide, 12).values(twice[None], np.append(action, np.zeros(6))[None])
    assert found == pytest.approx(expected)
    for kind in ("plain", "neighbours"):
        with pytest.raises(ValueError, match="context='mean', identity=False"):
            made(kind).for_arms(12)


def test_an_exported_network_is_read_as_the_same(tmp_path):
    network = made("neighbours")
    mr.export_onnx(network, tmp_path / "arms.onnx", n_actions=6)
    state, space = np.random.default_rng(6).normal(size=12), mr.BudgetTopK(6, 3)
    read, own = (mr.argmax(q, state, space) for q in (tmp_path / "arms.onnx", network))
    assert read.value == pytest.approx(own.value, abs=1e-5)
    np.testing.assert_array_equal(read.action, own.action)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_arms": 0}, "n_arms must be at least 1, got 0"),
        ({"head": (3, 3, 3)}, "head one or two"),
        ({"encoder": ()}, "encoder needs one width or more"),
        ({"layout": "rows"}, "layout must be 'arm' or 'feature'"),
        ({"neighbours": np.ones((2, 2))}, r"of shape \(6, 6\); got shape \(2, 2\)"),
        ({"neighbours": -np.ones((6, 6))}, "not negative"),
        ({"arm_features": 0, "identity": False}, "need identity=True"),
    ],
)
def test_what_makes_no_network_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        mr.ArmQNetwork(**{"n_arms": 6, **wrong})
