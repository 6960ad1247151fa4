import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import milp_rl as mr
from milp_rl.envs.sepsis import ACTIONS, FEATURES, OUTCOME, Sepsis, SepsisCohort, true_value
from milp_rl.formulations.files import locked, write_atomically
from milp_rl.offline.sepsis import report as sepsis_report
from milp_rl.offline.sepsis.data import SepsisData, generate_sepsis
from milp_rl.offline.sepsis.doses import allowed_doses, best_doses, dose_space, ward_doses
from milp_rl.offline.sepsis.iql import (
    IQLConfig,
    _iql_losses,
    _multitask_losses,
    _td_losses,
    _tensors,
    train_q,
)
from milp_rl.offline.sepsis.models import (
    MODELS,
    Behaviour,
    clinical_tests,
    fitted_q_iteration,
    judge,
    off_policy_value,
    train_model,
)
from milp_rl.offline.sepsis.networks import HeadsNetwork, SeparateNetwork
from milp_rl.offline.sepsis.report import run_sepsis, write_sepsis_report
from milp_rl.offline.sepsis.value import greedy
from milp_rl.offline.tables import Schema


@pytest.fixture(scope="module")
def data():
    return generate_sepsis(600, seed=0)


def test_boosted_trees_in_a_milp_choose_the_doses_that_their_predictions_do(data):
    values = fitted_q_iteration(data, "boosted", iterations=2)
    rng = np.random.default_rng(0)
    rows = rng.choice(len(data.features), 6, replace=False)
    features = data.features[rows]
    previous = features[
        :, [FEATURES.index("previous_vasopressor"), FEATURES.index("previous_fluid")]
    ]
    predicted = values(features)
    for limited in (False, True):
        allowed = allowed_doses(previous) if limited else np.ones((len(rows), 9), dtype=bool)
        wanted = np.where(allowed, predicted, -np.inf)
        for x, mask, q in zip(features, allowed, wanted, strict=True):
            model = pyo.ConcreteModel()
            model.space, model.q = pyo.Block(), pyo.Block()
            chosen = mr.BudgetTopK(9, 1, exactly=True).add_to(model.space)
            for i in np.flatnonzero(~mask):
                chosen[i].fix(0)
            levels = [
                sum(float(n) * chosen[i] for i, n in enumerate(ns)) for ns in ACTIONS.levels.T
            ]
            value = mr.add_network(model.q, values.model, [*x, *chosen, *levels])
            model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
            result = mr.solve_model(model)
            action = int(np.argmax([pyo.value(c) for c in chosen]))
            assert result.status == "optimal"
            assert result.value == pytest.approx(q.max(), abs=1e-6)
            assert q[action] == pytest.approx(q.max(), abs=1e-6)


def always(vasopressor, fluid):
    def act(features):
        probabilities = np.zeros((len(features), 9))
        probabilities[:, 3 * vasopressor + fluid] = 1.0
        return probabilities

    return act


def test_the_environment_is_gymnasiums():
    env = Sepsis()
    check_env(env, skip_render_check=True)
    assert gym.make("milp_rl/Sepsis-v0").reset(seed=0)[0].shape == (41,)
    env.reset(seed=1)
    total, done = 0.0, False
    while not done:
        _, reward, done, _, info = env.step(4)
        total += reward
    assert total == (OUTCOME if info["alive"] else -OUTCOME)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


def test_doses_work_in_the_physiological_direction():
    means = {}
    for action in (0, 3, 6, 1, 2):
        cohort = SepsisCohort(4000, np.random.default_rng(0))
        cohort.step(np.full(4000, action))
        means[action] = cohort.pressure.mean(), cohort.lactate.mean()
    assert means[0][0] < means[3][0] < means[6][0]  # vasopressor raises pressure
    assert means[0][1] > means[1][1] > means[2][1]  # fluid lowers lactate


def test_usual_care_beats_any_fixed_dose_and_drifts():
    usual = true_value(None, 3000)[0]
    assert usual > max(true_value(always(v, f), 1500)[0] for v, f in ((0, 0), (2, 2), (1, 1)))
    early = SepsisCohort(2000, np.random.default_rng(0), np.zeros(2000)).usual_care()
    late = SepsisCohort(2000, np.random.default_rng(0), np.ones(2000)).usual_care()
    wet = ACTIONS.has_level("fluid", "high")
    assert late[:, wet].sum(axis=1).mean() < early[:, wet].sum(axis=1).mean()


def test_data_are_logged_with_their_propensities(data):
    assert len(FEATURES) == 41
    shares = np.bincount(data.actions, minlength=9) / len(data.frame)
    assert (shares > 0).all()
    assert data.frame["propensity"].between(0, 1).all()
    ends = ~data.goes_on
    assert set(np.unique(data.rewards[ends])) == {-OUTCOME, OUTCOME}
    assert not data.rewards[~ends].any()
    again = generate_sepsis(600, seed=0)
    pd.testing.assert_frame_equal(again.frame, data.frame)


def test_the_temporal_split_does_not_leak(data):
    parts = data.split()
    admissions = [part.frame["admission"] for part in parts]
    assert admissions[0].max() < admissions[1].min()
    assert admissions[1].max() < admissions[2].min()
    stays = [set(part.frame["stay"]) for part in parts]
    assert sum(map(len, stays)) == len(set.union(*stays)) == 600
    assert [len(s) for s in stays] == [420, 90, 90]
    mixed = data.split("random", seed=1)
    assert mixed[0].frame["admission"].max() > admissions[2].min()
    with pytest.raises(ValueError, match="by must be"):
        data.split("hash")


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("lactate", 5, np.nan, "column 'lactate', row 5: nan is not a finite number"),
        ("fluid", 3, 3, "column 'fluid', row 3: 3 is not 0, 1 or 2"),
        ("propensity", 2, 0.0, "column 'propensity', row 2: 0.0 is not in"),
        ("admission", 1, 0.5, "column 'admission', row 1: 0.5 is not constant"),
        ("step", 1, 7, "column 'step', row .*: . is not 0, 1, "),
    ],
)
def test_wrong_data_are_refused_by_column_and_row(data, column, row, value, message, tmp_path):
    frame = data.frame.copy()
    frame.loc[row, column] = value
    with pytest.raises(ValueError, match=message):
        SepsisData(frame)
    data.write(tmp_path / "steps.parquet")
    pd.testing.assert_frame_equal(SepsisData.read(tmp_path / "steps.parquet").frame, data.frame)


def test_the_order_of_rows_plays_no_part(data):
    shuffled = data.frame.sample(frac=1.0, random_state=0)
    read = SepsisData(shuffled)
    pd.testing.assert_frame_equal(read.frame, data.frame)
    for one, other in zip(read.split(), data.split(), strict=True):
        pd.testing.assert_frame_equal(one.frame, other.frame)
    part = generate_sepsis(60, seed=3)
    behaviour = Behaviour.fit(part)
    target = greedy(behaviour.probabilities)(part.features)
    whole = off_policy_value(target, part, behaviour)
    order = np.random.default_rng(0).permutation(len(part.frame))
    moved = replace(part)
    object.__setattr__(moved, "frame", part.frame.iloc[order])  # as no table can be
    assert off_policy_value(target[order], moved, behaviour) == whole


def broken(frame, change):
    """A shuffled table in which a step of a stay of at least four is wrong, and that stay's."""
    moved = frame.sample(frac=1.0, random_state=1).reset_index(drop=True)
    stay = frame["stay"][frame["step"] == 3].iloc[2]
    row = {k: moved.index[(moved["stay"] == stay) & (moved["step"] == k)][0] for k in range(4)}
    return change(moved, row), stay, row


def test_a_step_that_is_missing_is_refused_with_stay_and_row(data):
    frame, stay, row = broken(data.frame, lambda f, row: f.drop(index=row[1]))
    message = f"column 'step', row {row[2]}: 2 is not 0, 1, ... in order: stay {stay} has no step 1"
    with pytest.raises(ValueError, match=re.escape(message)):
        SepsisData(frame)
    frame, stay, row = broken(data.frame, lambda f, row: f.drop(index=row[0]))
    with pytest.raises(ValueError, match=f"row {row[1]}: 1 is not .* stay {stay} has no step 0"):
        SepsisData(frame)


@pytest.mark.parametrize("named", [True, False])
def test_a_step_that_is_twice_is_refused_with_stay_and_rows(data, named):
    frame, stay, row = broken(data.frame, lambda f, row: pd.concat([f, f.loc[[row[2]]]]))
    second = len(frame) - 1
    if named:
        frame = frame.reset_index(drop=True)
    message = f"row {second}: .*stay {stay} has step 2 twice, first in row {row[2]}"
    with pytest.raises(ValueError, match=message):
        SepsisData(frame)


def test_a_table_of_ones_own_is_read_by_its_schema(tmp_path):
    part = generate_sepsis(15, seed=4)
    dose = {0: "none", 1: "low", 2: "high"}
    theirs = part.frame.rename(columns={"stay": "icustay_id", "lactate": "Arterial_lactate"})
    theirs["fluid"] = theirs["fluid"].map(dose)
    theirs.to_csv(tmp_path / "log.csv.gz", index=False)
    schema = Schema(
        {"stay": "icustay_id", "lactate": "Arterial_lactate"},
        {"fluid": {name: level for level, name in dose.items()}},
    )
    read = SepsisData.read(tmp_path / "log.csv.gz", schema=schema)
    pd.testing.assert_frame_equal(read.frame, part.frame, check_dtype=False)
    with pytest.raises(ValueError, match="a schema may not change them"):
        SepsisData.read(tmp_path / "log.csv.gz", schema=replace(schema, factors={}))


def test_steps_are_transitions_that_anyone_can_learn_from(data):
    t = data.transitions()
    ends = np.flatnonzero(t.terminated)
    assert len(ends) == 600
    on = np.flatnonzero(~t.terminated)
    np.testing.assert_array_equal(t.next_states[on], t.states[on + 1])
    np.testing.assert_array_equal(t.actions.argmax(axis=1), data.actions)
    assert set(np.unique(t.rewards[ends])) == {-OUTCOME, OUTCOME}
    assert t.feasible.count() == 9


def test_a_missing_stay_is_refused(data):
    frame = data.frame.astype({"stay": float})
    frame.loc[4, "stay"] = np.nan
    with pytest.raises(ValueError, match="column 'stay', row 4: nan is missing"):
        SepsisData(frame)


def test_the_losses_are_those_of_the_formula():
    torch.manual_seed(0)
    network, c = HeadsNetwork(41, 9, (8,)), IQLConfig()
    n = 50
    batch = [
        torch.randn(n, 41),
        torch.randint(9, (n,)),
        torch.randn(n),
        torch.randn(n, 41),
        (torch.rand(n) < 0.8).float(),
        torch.randn(n, 2),
    ]
    found = _multitask_losses(network, network, batch, c)
    x, a, r, x2, on, tasks = batch
    q, v, predicted = network(x)
    taken = q[torch.arange(n), a]
    y = r + 0.99 * on * network(x2)[1]
    error = taken - v
    expectile = torch.where(error > 0, 0.7 * error**2, 0.3 * error**2).mean()
    p = torch.softmax(q / 3.0, dim=1)
    torch.testing.assert_close(found["q"], ((taken - y) ** 2).mean())
    torch.testing.assert_close(found["v"], expectile)
    torch.testing.assert_close(found["entropy"], 0.3 * (p * p.log()).sum(dim=1).mean())
    pressure = 0.1 * (on * (predicted[:, 0] - tasks[:, 0]) ** 2).mean()
    torch.testing.assert_close(found["pressure"], pressure)


def test_the_losses_of_kostrikov_are_those_of_the_formulas():
    torch.manual_seed(0)
    network, target = (SeparateNetwork(4, 3, (8,)) for _ in range(2))
    c, n = IQLConfig(method="iql", expectile=0.8, discount=0.9, inverse_temperature=9.0), 40
    rng = np.random.default_rng(0)
    x, following = rng.normal(size=(2, n, 4))
    r, a, on = rng.normal(size=n), rng.integers(3, size=n), (np.arange(n) % 4 != 3).astype(float)
    columns = [torch.tensor(v).float() for v in (x, r, following, on)]
    batch = [columns[0], torch.tensor(a), *columns[1:], columns[0][:, :2]]
    found = {k: float(v.detach()) for k, v in _iql_losses(network, target, batch, c).items()}
    with torch.no_grad():
        q, v, logits = (o.double().numpy() for o in network(columns[0]))
        later = network(columns[2])[1].double().numpy()
        fixed = target(columns[0])[0].double().numpy()
    expected = {"q": 0.0, "v": 0.0, "policy": 0.0}
    cut = 0
    for i in range(n):
        wanted = r[i] + (0.9 * later[i] if on[i] else 0.0)
        above = fixed[i, a[i]] - v[i]
        cut += np.exp(9.0 * above) > 100
        chance = np.exp(logits[i, a[i]]) / np.exp(logits[i]).sum()
        expected["q"] += (q[i, a[i]] - wanted) ** 2 / n
        expected["v"] += (0.8 if above > 0 else 0.2) * above**2 / n
        expected["policy"] -= min(np.exp(9.0 * above), 100.0) * np.log(chance) / n
    assert found == pytest.approx(expected, rel=1e-4)
    assert cut


@pytest.mark.parametrize("method", ["double_dqn", "dueling_cql"])
def test_the_baselines_losses_are_those_of_their_formulas(method):
    torch.manual_seed(0)
    network, target = HeadsNetwork(41, 9, (8,)), HeadsNetwork(41, 9, (8,))
    config, n = IQLConfig(method=method, conservatism=0.7, discount=0.9), 40
    x, following, r = np.random.default_rng(0).normal(size=(3, n, 41))
    a, r = np.random.default_rng(1).integers(9, size=n), r[:, 0]
    on = (np.arange(n) % 4 != 3).astype(float)  # every fourth step is the last of a stay
    columns = [torch.tensor(c).float() for c in (x, r, following, on, x[:, :2])]
    batch = [columns[0], torch.tensor(a), *columns[1:]]
    found = {k: float(v.detach()) for k, v in _td_losses(network, target, batch, config).items()}

    def q(net, rows):
        with torch.no_grad():
            q, v, _ = (o.double().numpy() for o in net(torch.tensor(rows).float()))
        return v[:, None] + q - q.mean(axis=1)[:, None] if method == "dueling_cql" else q

    values, best = q(network, x), q(network, following).argmax(axis=1)
    ahead = q(target, following)
    errors, penalties = [], []
    for i in range(n):
        wanted = r[i] if on[i] == 0 else r[i] + 0.9 * ahead[i, best[i]]
        errors.append((values[i, a[i]] - wanted) ** 2)
        penalties.append(np.log(np.exp(values[i]).sum()) - values[i, a[i]])
    assert found["q"] == pytest.approx(np.mean(errors), rel=1e-4)
    if method == "dueling_cql":
        assert found["conservatism"] == pytest.approx(0.7 * np.mean(penalties), rel=1e-4)
        assert found["conservatism"] > 0  # it presses down what was not taken
    else:
        assert set(found) == {"q"}


def test_conservatism_presses_down_the_actions_that_were_not_taken(data):
    train, validation, _ = data.split()
    taken = np.arange(len(train.frame)), train.actions
    below = {}
    for weight in (0.0, 5.0):
        config = IQLConfig(
            method="dueling_cql",
            conservatism=weight,
            epochs=8,
            hidden=(32,),
            batch_size=256,
            learning_rate=3e-3,
        )
        q = train_q(train, validation, config).q_values(train.features)
        below[weight] = (q[taken] - q.mean(axis=1)).mean()
    assert below[5.0] > below[0.0] + 0.5


def test_next_steps_are_those_of_the_same_stay():
    data = generate_sepsis(40, seed=1)
    mean, scale = np.linspace(-1, 1, 41), np.linspace(1, 3, 41)
    x, _, rewards, following, on, tasks = (
        t.numpy() for t in _tensors(data, mean, scale, torch.device("cpu"))
    )
    stay, step = data.frame["stay"].to_numpy(), data.frame["step"].to_numpy()
    rows = {(stay[i], step[i]): i for i in range(len(stay))}
    for i in range(len(stay)):
        after = rows.get((stay[i], step[i] + 1))
        assert on[i] == (after is not None)
        if after is not None:
            np.testing.assert_array_equal(following[i], x[after])
            wanted = data.frame.loc[after, list(FEATURES)].to_numpy(dtype=float)
            wanted = ((wanted - mean) / scale)[:2]  # pressure and lactate
            np.testing.assert_allclose(tasks[i], wanted, rtol=1e-5)
    np.testing.assert_allclose(rewards, data.rewards)
    np.testing.assert_allclose(x, (data.features - mean) / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["double_dqn", "iql"])
def test_the_target_network_follows_at_its_rate(data, tmp_path, method):
    train, validation, _ = data.split()
    size = len(train.frame)  # one batch an epoch
    path = tmp_path / "q.pt"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kind = SeparateNetwork if method == "iql" else HeadsNetwork
        target = kind(41, 9, (8,)).state_dict()
    for epochs in (1, 2, 3):
        config = IQLConfig(method=method, epochs=epochs, hidden=(8,), batch_size=size, tau=0.25)
        path.unlink(missing_ok=True)
        train_q(train, validation, config, seed=3, checkpoint=path)
        stored = torch.load(path, weights_only=True)
        for name, weights in stored["network"].items():
            target[name] = 0.75 * target[name] + 0.25 * weights
            torch.testing.assert_close(stored["target"][name], target[name])


@pytest.mark.parametrize("method", ["iql_multitask", "iql", "dueling_cql"])
def test_training_is_reproducible_and_logged(data, tmp_path, method):
    train, validation, test = data.split()
    config = IQLConfig(method=method, epochs=2, hidden=(16, 8))
    log_file = tmp_path / "losses.csv"
    one = train_q(train, validation, config, seed=1, log_file=log_file)
    two = train_q(train, validation, config, seed=1)
    np.testing.assert_array_equal(one.q_values(test.features), two.q_values(test.features))
    losses = pd.read_csv(log_file)
    assert list(losses["epoch"]) == [0, 1]
    assert {"q", "total"} <= set(losses)
    assert losses["FQE low"].isna().tolist() == [True, False]  # looked at in the last epoch only
    np.testing.assert_array_equal(
        greedy(one)(test.features).argmax(axis=1), one(test.features).argmax(axis=1)
    )
    if method != "iql":
        np.testing.assert_array_equal(one(test.features), one.q_values(test.features))


def test_the_network_of_the_highest_lower_bound_is_kept(data, monkeypatch):
    train, validation, test = data.split()
    config = IQLConfig(epochs=9, hidden=(8,), evaluate_every=2, patience=4)
    lows, seen = iter([1.0, 3.0, 2.0, 2.5, 9.0]), []

    def value(policy, data):
        assert data is validation
        seen.append(policy.q_values(test.features))
        return {"FQE low": next(lows)}

    monkeypatch.setattr("milp_rl.offline.sepsis.iql.validation_value", value)
    told = []
    kept = train_q(train, validation, config, evaluate=lambda policy: told.append(1) or {})
    assert len(seen) == 4  # after epochs 2, 4, 6 and 8: four epochs without a higher one
    assert len(told) == 4
    np.testing.assert_array_equal(kept.q_values(test.features), seen[1])


def test_a_training_that_is_stopped_goes_on_to_the_same_weights(data, tmp_path):
    train, validation, test = data.split()
    config, path = IQLConfig(epochs=4, hidden=(16, 8)), tmp_path / "iql.pt"
    whole = train_q(train, validation, config).q_values(test.features)

    class StoppedError(Exception):
        pass

    written = []

    def stop(path, content):
        write_atomically(path, content)
        written.append(path)
        if len(written) == 2:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("milp_rl.offline.sepsis.iql.write_atomically", stop)
        with pytest.raises(StoppedError):
            train_q(train, validation, config, checkpoint=path)
    resumed = train_q(train, validation, config, checkpoint=path)
    np.testing.assert_array_equal(resumed.q_values(test.features), whole)
    with pytest.raises(ValueError, match="belongs to another run: seed differ"):
        train_q(train, validation, config, seed=1, checkpoint=path)
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="has no tensors that can be read"):
        train_q(train, validation, config, checkpoint=path)


@pytest.mark.slow
def test_iql_is_at_least_as_good_as_clinicians_and_sound():
    train, validation, test = generate_sepsis(2500, seed=0).split()
    values = train_model("IQL, multi-task", train, validation, seed=0, selection="loss")
    row = judge(values, test, Behaviour.fit(train), seed=0)
    clinicians, error, _ = true_value(None, 4000, seed=0)
    assert row["true value"] > clinicians - error
    assert row["clinical tests"] == 3
    assert row["actions used"] >= 7
    assert row["entropy"] > 1.5


def test_clinical_tests_know_right_from_wrong(data):
    pressure, lactate = (FEATURES.index(name) for name in ("mean_blood_pressure", "lactate"))

    def sensible(x):
        wanted = np.column_stack([(74 - x[:, pressure]) / 10, (x[:, lactate] - 0.8) / 0.8])
        return -np.abs(ACTIONS.levels[None] - wanted[:, None]).sum(axis=2)

    assert clinical_tests(sensible, data)["clinical tests"] == 3
    assert clinical_tests(lambda x: -sensible(x), data)["clinical tests"] == 0
    never_high = ACTIONS.levels.max(axis=1) == 2

    def timid(x):
        return np.where(never_high, -np.inf, sensible(x))

    found = clinical_tests(timid, data)
    assert found["actions used"] == 4
    diverse = clinical_tests(timid, data, actions=data.actions)
    assert diverse["clinical tests"] == found["clinical tests"] + 1 <= 3

    def hardly_ever(x):  # every action, but nearly always the same
        q = np.where(np.arange(9) == 4, 1.0, 0.0) * np.ones((len(x), 1))
        q[np.arange(0, len(x), 10), np.arange(0, len(x), 10) // 10 % 9] = 2.0
        return q

    rare = clinical_tests(hardly_ever, data)
    assert rare["actions used"] == 9
    assert rare["entropy"] < 1.5
    assert rare["clinical tests"] == 0


def test_greedy_policies_and_fitted_q(data):
    values = fitted_q_iteration(data, "linear", iterations=2)
    probabilities = greedy(values)(data.features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(
        probabilities.argmax(axis=1), values(data.features).argmax(axis=1)
    )
    calibration = Behaviour.fit(data).calibration(data)
    assert np.abs(calibration["predicted"] - calibration["observed"]).max() < 0.05
    with pytest.raises(ValueError, match="unknown model"):
        train_model("magic", data, data)


def test_dose_limits_are_kept_and_the_best_is_taken():
    previous = np.array([[0, 0], [1, 2], [2, 2]])
    q = np.random.default_rng(0).normal(size=(3, 9))
    allowed = allowed_doses(previous)
    assert allowed[0].sum() == 4
    assert not allowed[:, 8].any()
    best = best_doses(q, previous)
    for i in range(3):
        space = dose_space(previous[i])
        assert q[i, best[i]] == q[i, allowed[i]].max()
        assert space.n_actions == allowed[i].sum()
        assert not any(space.block().violations(a) for a in space.one_hot(range(space.n_actions)))
    with pytest.raises(ValueError, match="no allowed action"):
        allowed_doses([[2, 2]], largest_step=0)
    with pytest.raises(ValueError, match="pairs of levels"):
        allowed_doses([[3, 0]])


def test_the_same_doses_by_a_milp():
    network = mr.QNetwork(2, 6, (8,), generator=torch.Generator().manual_seed(0))
    state, previous = [0.3, -0.2], [1, 2]
    space = dose_space(previous)
    best = mr.argmax(network, state, space.block(), solver="highs")
    rows = torch.from_numpy(space.one_hot(np.arange(space.n_actions)))
    values = network.q(torch.tensor(state), rows)
    assert best.value == pytest.approx(values.max().item(), abs=1e-5)


def test_a_wards_pumps_are_shared_at_best():
    rng = np.random.default_rng(0)
    q, previous = rng.normal(size=(20, 9)), rng.integers(0, 2, (20, 2))
    free = ward_doses(q, previous, 20)
    np.testing.assert_array_equal(free.actions, best_doses(q, previous))
    few = ward_doses(q, previous, 3)
    assert (ACTIONS.levels[few.actions, 0] > 0).sum() <= 3
    assert few.value == pytest.approx(few.bound)
    assert few.value < free.value
    allowed = allowed_doses(previous)
    plain = np.where(allowed & (ACTIONS.levels[:, 0] == 0), q, -np.inf).max(axis=1)
    gain = np.where(allowed, q, -np.inf).max(axis=1) - plain
    assert few.value == pytest.approx(plain.sum() + np.sort(gain)[::-1][:3].sum())


@pytest.mark.slow
def test_a_run_is_resumed_and_reported(tmp_path):
    options = {"seeds": (0,), "n_stays": 200, "epochs": 1}
    results = run_sepsis(tmp_path, **options)
    assert {"clinicians", "IQL, multi-task", "Double DQN"} <= set(results["model"])
    before = (tmp_path / "seed-0" / "models.csv").stat().st_mtime_ns
    again = run_sepsis(tmp_path, **options)
    assert (tmp_path / "seed-0" / "models.csv").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(results, again)
    page = write_sepsis_report(tmp_path).read_text()
    for heading in ("Models", "Course of learning", "Clinical response", "Calibration"):
        assert heading in page
    models = results[results["model"] != "clinicians"]
    held = (models["low"] <= models["true value"]) & (models["true value"] <= models["high"])
    assert f"WDR {held.sum()} of {len(models)}" in page
    held = models["DRL low"] <= models["true value"]
    held &= models["true value"] <= models["DRL high"]
    assert f"DRL {held.sum()} of {len(models)}" in page
    course = pd.read_csv(tmp_path / "seed-0" / "course.csv")
    assert set(course["model"]) == set(MODELS)
    assert course[["predicted", "true value", "WDR", "FQE low"]].notna().all(axis=None)
    for name in ("results.csv", "seed-0/course.csv"):  # as from stays of one's own
        table = pd.read_csv(tmp_path / name)
        columns = ["true value", "true error", "survival"]
        table.drop(columns=columns, errors="ignore").to_csv(tmp_path / name, index=False)
    own = write_sepsis_report(tmp_path).read_text()
    assert "simulator" in page
    assert "simulat" not in own
    assert "true value" not in own
    with pytest.raises(ValueError, match="has no results"):
        write_sepsis_report(tmp_path / "nothing")


def test_seeds_of_other_data_or_settings_are_not_gone_on_with(tmp_path, monkeypatch):
    """The seeds themselves are replaced by tables that say what they were run with."""
    run = []

    def run_seed(data, seed, n_stays, epochs, say):
        run.append(seed)
        row = pd.DataFrame([{"stays": n_stays, "epochs": epochs}])
        return dict.fromkeys(sepsis_report._TABLES, row)

    monkeypatch.setattr(sepsis_report, "_run_seed", run_seed)
    run_sepsis(tmp_path, seeds=(0,), n_stays=50, epochs=2)
    results = run_sepsis(tmp_path, seeds=(0, 1), n_stays=50, epochs=2)
    assert run == [0, 1]
    assert results["epochs"].tolist() == [2, 2]
    with pytest.raises(
        ValueError, match=r"seed-0 was made with other settings \(epochs was 2, now 3"
    ):
        run_sepsis(tmp_path, seeds=(0,), n_stays=50, epochs=3)
    with pytest.raises(ValueError, match="stays was 50, now 60"):
        run_sepsis(tmp_path, seeds=(7,), n_stays=60, epochs=2)  # the table would mix them
    own = generate_sepsis(20, seed=0)
    with pytest.raises(ValueError, match="data was simulated, now"):
        run_sepsis(tmp_path, data=own, seeds=(0,), epochs=2)
    run_sepsis(tmp_path / "own", data=own, seeds=(0,), epochs=2)
    run_sepsis(tmp_path / "own", data=SepsisData(own.frame.copy()), seeds=(0,), epochs=2)
    assert run == [0, 1, 0]
    other = SepsisData(own.frame.assign(**{FEATURES[0]: own.frame[FEATURES[0]] + 1e-6}))
    with pytest.raises(ValueError, match="data was"):
        run_sepsis(tmp_path / "own", data=other, seeds=(0,), epochs=2)
    (tmp_path / "seed-1" / "settings.json").unlink()  # as if it had been killed while writing
    run_sepsis(tmp_path, seeds=(0, 1), n_stays=50, epochs=2)
    assert run == [0, 1, 0, 1]
    with locked(tmp_path), pytest.raises(RuntimeError, match="in use"):
        run_sepsis(tmp_path, seeds=(0,), n_stays=50, epochs=2)
    with pytest.raises(ValueError, match="at least 1"):
        run_sepsis(tmp_path, seeds=())


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match=r"expectile must be in \(0, 1\)"):
        replace(IQLConfig(), expectile=1.0)
    with pytest.raises(ValueError, match="unknown method"):
        IQLConfig(method="sarsa")
