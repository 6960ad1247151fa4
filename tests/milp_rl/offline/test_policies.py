from dataclasses import replace

import numpy as np
import pytest
import torch

from milp_rl.envs.care_management import CareManagement, RewardWeights
from milp_rl.evaluation.ope import outcome_model
from milp_rl.offline import CareData, generate_care_management
from milp_rl.offline.allocation import parity_limits
from milp_rl.offline.audit import (
    fairness_curve,
    logged_decisions,
    mediation,
    parity_audit,
    parity_gap,
    proportional_gap,
    reward_grid,
    sensitivity,
    subgroup_values,
    window_grid,
)
from milp_rl.offline.policies import (
    PolicyConfig,
    WindowNetwork,
    _advantage_weights,
    _cql_loss,
    _Fit,
    _imitation_loss,
    _returns,
    _Tensors,
    _value_loss,
    make_windows,
    train_policy,
)

QUICK = PolicyConfig(epochs=2, hidden=8, batch_size=512)


@pytest.fixture(scope="module")
def data():
    return generate_care_management(n_patients=300, n_weeks=20, seed=0)


@pytest.fixture(scope="module")
def q(data):
    return outcome_model(data_decisions(data), data.space.one_hot(np.arange(97)), folds=2)


def data_decisions(data, target=None):
    uniform = np.full((len(data.frame), data.space.n_actions), 1 / data.space.n_actions)
    return logged_decisions(data, uniform if target is None else target)


def test_windows_hold_the_past_and_nothing_else(data):
    windows, present = make_windows(data, 4)
    week = data.frame["week"].to_numpy()
    np.testing.assert_array_equal(present.sum(axis=1), np.minimum(week + 1, 4))
    np.testing.assert_array_equal(windows[:, -1, :6], data.states)
    row = int(np.flatnonzero(week == 5)[3])
    np.testing.assert_array_equal(windows[row, 0, :6], data.states[row - 3])
    contact = data.frame["contact_success"].to_numpy()[row - 1]
    assert windows[row, -1, 6] == (0.5 if np.isnan(contact) else contact)
    first = week == 0
    assert (windows[first, -1, 7] == 0).all()
    assert not windows[first, :-1].any()


def test_missing_weeks_play_no_part():
    torch.manual_seed(0)
    network = WindowNetwork(3, 2, 4)
    windows, present = torch.rand(1, 4, 3), torch.tensor([[False, False, True, True]])
    other = windows.clone()
    other[0, :2] = 9.0
    torch.testing.assert_close(network(windows, present), network(other, present))


def test_attention_is_paid_to_the_weeks_that_exist():
    torch.manual_seed(0)
    network = WindowNetwork(3, 2, 4)
    windows = torch.rand(3, 4, 3)
    present = torch.tensor([[False] * 3 + [True], [False, False, True, True], [True] * 4])
    found = network(windows, present)
    for row in range(3):
        here = present[row]
        features, _ = network.lstm((windows[row] * here[:, None])[None])
        features = features[0][here]
        scores = torch.exp(network.attention(features)[:, 0])
        pooled = (scores / scores.sum()) @ features
        torch.testing.assert_close(found[row], network.head(pooled))


def rows_of(n, n_outputs, seed=0):
    """Random windows of patients with three weeks each, and which rows another one follows."""
    torch.manual_seed(seed)
    tensors = _Tensors(
        windows=torch.rand(n, 2, 3),
        present=torch.ones(n, 2, dtype=torch.bool),
        actions=torch.randint(n_outputs, (n,)),
        returns=torch.randn(n),
        rewards=torch.randn(n),
        groups=torch.arange(n) % 3,
        need=torch.rand(n) + 0.1,
    )
    return tensors, torch.arange(n) % 3 != 2


def test_the_loss_of_cql_is_that_of_the_formula():
    t, follows = rows_of(30, 5)
    config = PolicyConfig(method="cql", conservatism=0.7, discount=0.9)
    network, target = WindowNetwork(3, 5, 4), WindowNetwork(3, 5, 4)
    rows = torch.tensor([29, *range(0, 28)])
    found = float(_cql_loss(config, t, follows)(network, target, rows).detach())
    with torch.no_grad():
        q, later = (net(t.windows, t.present).double().numpy() for net in (network, target))
    errors, penalties = [], []
    for i in rows.tolist():
        wanted = float(t.rewards[i])
        if i % 3 != 2:  # not the patient's last week
            wanted += 0.9 * later[i + 1, q[i + 1].argmax()]
        taken = q[i, t.actions[i]]
        errors.append((taken - wanted) ** 2)
        penalties.append(np.log(np.exp(q[i]).sum()) - taken)
    assert found == pytest.approx(np.mean(errors) + 0.7 * np.mean(penalties), rel=1e-5)


@pytest.mark.parametrize("parity", ["demographic", "proportional"])
def test_the_loss_of_imitation_is_that_of_the_formula(parity):
    t, _ = rows_of(30, 5)
    weights, level = torch.rand(30) + 0.5, torch.tensor([True, False, False, True, False])
    config = PolicyConfig(method="bc", fairness=3e4, parity=parity)
    network = WindowNetwork(3, 5, 4)
    rows = list(range(3, 28))
    with torch.no_grad():
        network.head[-1].weight.mul_(30.0)
        loss = _imitation_loss(config, t, weights, level)
        found = float(loss(network, network, torch.tensor(rows)))
        logits = network(t.windows, t.present).double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    fit = sum(-float(weights[i]) * np.log(p[i, t.actions[i]]) for i in rows) / len(rows)
    share, need = p[:, 0] + p[:, 3], t.need.numpy()
    penalty = 0.0
    for group in (0, 1, 2):
        members = [i for i in rows if i % 3 == group]
        due = share[rows].mean()
        if parity == "proportional":
            due *= need[members].mean() / need[rows].mean()
        penalty += (share[members].mean() - due) ** 2
    assert found == pytest.approx(fit + 3e4 * penalty, rel=1e-4)
    assert 3e4 * penalty > 1e-2


def test_weights_and_returns_are_those_of_the_formulas():
    t, _ = rows_of(30, 1)
    config = PolicyConfig(beta=0.5, largest_weight=2.5)
    a = t.returns.double().numpy()
    wanted = np.minimum(np.exp(a / (0.5 * a.std(ddof=1))), 2.5)
    assert (wanted == 2.5).any()
    found = _advantage_weights(t.returns, config).numpy()
    np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-5)
    network = WindowNetwork(3, 1, 4)
    with torch.no_grad():
        errors = [float(network(t.windows[[i]], t.present[[i]])) - float(a[i]) for i in (4, 9, 2)]
        loss = float(_value_loss(t)(network, network, torch.tensor([4, 9, 2])))
    assert loss == pytest.approx(np.mean(np.square(errors)), rel=1e-5)
    returns = _returns([1.0, 2.0, 4.0, 8.0, 16.0], np.array([0, 0, 0, 1, 1]), 0.5)
    np.testing.assert_allclose(returns, [1 + 1 + 1, 2 + 2, 4, 8 + 8, 16])


def test_the_target_network_is_that_of_the_end_of_the_last_epoch():
    t, _ = rows_of(40, 2)
    config = PolicyConfig(epochs=3, hidden=4, batch_size=10, patience=3)
    everyone = np.arange(40)
    fit = _Fit(
        config, t, everyone[:30], everyone[30:], np.random.default_rng(0), torch.device("cpu"), 0
    )
    equal = []

    def loss(network, target, rows):
        if torch.is_grad_enabled():
            pairs = zip(network.parameters(), target.parameters(), strict=True)
            equal.append(all(torch.equal(a, b) for a, b in pairs))
        return network(t.windows[rows], t.present[rows]).square().mean()

    fit.run(2, loss)
    assert equal == [True, False, False] * 3


def test_better_policies_than_usual_care_are_learnt():
    train, test = (generate_care_management(500, 20, seed) for seed in (0, 1))
    env = CareManagement()
    rewards = env.expected_rewards(test.states)
    behaviour = (env.behaviour(test.states) * rewards).sum(axis=1).mean()
    values = {}
    for method, change in (("bc", {}), ("awr", {}), ("cql", {"conservatism": 0.1})):
        policy = train_policy(train, PolicyConfig(method=method, epochs=10, **change), seed=0)
        target = policy.probabilities(test)
        np.testing.assert_allclose(target.sum(axis=1), 1.0)
        values[method] = (target * rewards).sum(axis=1).mean()
    assert values["bc"] == pytest.approx(behaviour, rel=0.01)
    assert values["awr"] > 1.005 * behaviour
    assert values["cql"] > 1.02 * behaviour


def test_the_fairness_penalty_closes_the_gap(data):
    level = data.space.has_level("modality", "Home Visit")
    config = replace(QUICK, epochs=12, hidden=16, method="bc")
    gaps = [
        parity_gap(
            train_policy(data, replace(config, fairness=w)).probabilities(data), level, data.groups
        )
        for w in (0.0, 1000.0)
    ]
    assert gaps[1] < 0.5 * gaps[0]


def test_the_same_seed_gives_the_same_policy(data):
    one, two = (train_policy(data, QUICK, seed=5).probabilities(data) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, train_policy(data, QUICK, seed=6).probabilities(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sac"}, "method must be"),
        ({"window": 0}, "window must be"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"discount": 1.0}, r"discount must be in \[0, 1\)"),
        ({"fairness": -1.0}, "fairness must be nonnegative"),
        ({"parity": "equal"}, "parity must be"),
        ({"method": "cql", "fairness": 1.0}, "fairness is a penalty of imitation"),
        ({"fairness_need": "age"}, "fairness_need must be one of clinical_risk"),
    ],
)
def test_wrong_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


def test_sensitivity_changes_one_thing_at_a_time(data, q):
    target = CareManagement().behaviour(data.states)
    table = sensitivity(data_decisions(data, target), q)
    assert set(table["what"]) == {
        "outcome model's bias",
        "propensities' noise",
        "truncation of ratios",
    }
    plain = table[(table["by"] == 0) | np.isinf(table["by"])]["value"]
    assert np.ptp(plain) < 1e-12
    observed = data.rewards().mean()
    assert plain.iloc[0] == pytest.approx(observed, abs=1e-3)  # the target is usual care itself


def test_subgroups_and_parity(data, q):
    target = CareManagement().behaviour(data.states)
    values = subgroup_values(data_decisions(data, target), q, data.groups)
    assert values["patients"].sum() == 300
    assert ((values["low"] < values["value"]) & (values["value"] < values["high"])).all()
    level = data.space.has_level("modality", "Home Visit")
    audit = parity_audit(target, level, data.groups, data.states[:, 0])
    share = target[:, level].sum(axis=1)
    black = data.groups == "Black"
    row = audit.set_index("group").loc["Black"]
    assert row["share"] == pytest.approx(share[black].mean())
    assert row["difference"] == pytest.approx(share[black].mean() - share.mean())
    gaps = audit["share"].max() - audit["share"].min()
    assert parity_gap(target, level, data.groups) == pytest.approx(gaps)


def test_shares_in_proportion_to_need_have_no_proportional_gap():
    groups, need = np.repeat(["a", "b"], 50), np.repeat([0.2, 0.6], 50)
    level = np.array([True, False])
    share = 0.5 * need
    target = np.column_stack([share, 1 - share])
    assert proportional_gap(target, level, groups, need) == pytest.approx(0.0, abs=1e-12)
    assert parity_gap(target, level, groups) == pytest.approx(0.2)
    equal = np.full((100, 2), 0.5)  # group a is due 0.25 of 0.5, group b 0.75
    assert parity_gap(equal, level, groups) == 0.0
    assert proportional_gap(equal, level, groups, need) == pytest.approx(0.5)


def test_mediation_finds_what_goes_through_social_needs(data):
    through = mediation(data, data.states[:, -1], "Black").set_index("effect")
    assert through.loc["direct", "value"] == pytest.approx(0.0, abs=1e-9)
    assert through.loc["through social needs", "low"] > 0
    straight = mediation(data, (data.groups == "Black").astype(float), "Black").set_index("effect")
    assert straight.loc["direct", "value"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="nobody, or everybody"):
        mediation(data, data.rewards(), "Martian")


@pytest.mark.slow
def test_grids_have_a_row_a_setting(data, q):
    curve = fairness_curve(data, data, q, (0.0, 10.0), base=QUICK)
    assert list(curve["penalty"]) == [0.0, 10.0, 10.0]
    assert list(curve["parity"]) == ["none", "demographic", "proportional"]
    windows = window_grid(data, data, q, (2, 4), base=QUICK)
    assert list(windows["window"]) == [2, 4]
    grid = reward_grid(data, data, q, (0.0, 0.3), (0.5,), base=QUICK)
    assert len(grid) == 2
    for table in (curve, windows, grid):
        assert (table["low"] < table["high"]).all()


def test_propensities_are_needed(data):
    bare = CareData(data.frame.drop(columns="propensity"))
    with pytest.raises(ValueError, match="no column 'propensity'"):
        data_decisions(bare)
    assert RewardWeights().of(np.ones(6)) == pytest.approx(-1 + 0.3 + 0.5)


def test_levels_are_bits_and_no_group_is_missing():
    target = np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    groups = np.array(["a", "b", "b"])
    shares = {"a": 0.7, "b": (0.9 + 0.9) / 2}
    for level in (np.array([True, False, True]), [1, 0, 1], [1.0, 0.0, 1.0]):
        table = parity_audit(target, level, groups, np.ones(3)).set_index("group")
        assert table["share"].to_dict() == pytest.approx(shares)
        assert parity_gap(target, level, groups) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="entry 1 is 2"):
        parity_gap(target, [0, 2, 1], groups)
    with pytest.raises(ValueError, match=r"level must be of shape \(3,\)"):
        parity_gap(target, [0, 2], groups)
    need = np.ones(3)
    for missing in (np.array(["a", None, "b"], dtype=object), np.array([1.0, np.nan, 2.0])):
        for call in (
            lambda groups: parity_audit(target, [1, 0, 1], groups, need),
            lambda groups: parity_gap(target, [1, 0, 1], groups),
            lambda groups: parity_limits("visits", [1, 0, 1], groups, 0.1),
        ):
            with pytest.raises(ValueError, match=r"group of row 1 is missing \(1 of 3 are\)"):
                call(missing)
