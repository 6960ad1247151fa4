import re

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium.utils.env_checker import check_env

import milp_rl.envs  # noqa: F401  (registers the environment)
from milp_rl.envs import ParallelEpisodes
from milp_rl.envs.care_management import FACTORS, CareManagement, RewardWeights, care_actions
from milp_rl.formulations.files import locked
from milp_rl.offline import (
    CareData,
    FactoredActionSpace,
    OfflineConfig,
    Schema,
    fit,
    generate_care_management,
)
from milp_rl.offline.audit import logged_decisions, sensitivity
from milp_rl.offline.care import report as care_report
from milp_rl.offline.care.data import simulate_care


@pytest.fixture(scope="module")
def data():
    return generate_care_management(n_patients=400, n_weeks=20, seed=0)


def test_97_of_240_combinations_are_valid():
    space = care_actions()
    assert (space.n_actions, space.n_combinations) == (97, 240)
    numbers = np.arange(97)
    np.testing.assert_array_equal(space.encode(space.decode(numbers)), numbers)
    np.testing.assert_array_equal(space.encode(space.table()), numbers)
    block = space.block()
    assert not any(block.violations(a) for a in space.one_hot(numbers))
    assert block.count() == 97
    assert space.has_level("modality", "Home Visit").sum() > 0


def test_wrong_combinations_are_refused_with_their_row():
    space = FactoredActionSpace({"a": ["x", "y"], "b": ["u", "v"]}, [("x", "u"), ("y", "v")])
    np.testing.assert_array_equal(space.encode([("y", "v"), ("x", "u")]), [1, 0])
    with pytest.raises(ValueError, match=r"row 1: \(x, v\) is not a valid combination"):
        space.encode([("x", "u"), ("x", "v")])
    with pytest.raises(ValueError, match="row 0: 'a' has no level 'z'"):
        space.encode([("z", "u")])
    with pytest.raises(ValueError, match=r"actions are numbers 0\.\.1"):
        space.decode([2])
    with pytest.raises(ValueError, match="no level 'u' of a factor 'a'"):
        space.has_level("a", "u")


def test_the_environment_is_gymnasiums():
    check_env(CareManagement(), skip_render_check=True)
    assert gym.make("milp_rl/CareManagement-v0").reset(seed=0)[0].shape == (6,)
    parallel = ParallelEpisodes(CareManagement(4), 3)
    states, _ = parallel.reset(seed=0)
    assert states.shape == (3, 6)
    parallel.step(parallel.action_space.sample())


def test_expected_rewards_are_the_means_of_samples():
    env = CareManagement()
    rng = np.random.default_rng(0)
    state = env.start_states(rng, 1)[0]
    expected = env.expected_rewards(state)
    for number in rng.choice(97, 4, replace=False):
        action = env.actions.one_hot(number)
        _, rewards = env.transition(state, action, rng.random((200_000, env.luck_dim)))
        assert rewards.mean() == pytest.approx(expected[number], abs=2e-3)
        assert env.expected_reward(state, action) == pytest.approx(expected[number])


def test_data_have_the_structure_they_should():
    data = generate_care_management(seed=1)
    assert len(data.frame) == 52_000
    assert data.space.n_actions == 97
    primary = data.frame["acute_event"]
    assert 0 < (primary != 0).mean() < 0.01
    assert 0.05 < data.frame["contact_success"].isna().mean() < 0.11
    home = data.frame["modality"] == "Home Visit"
    risk = data.frame["clinical_risk"]
    assert home[risk > 0.4].mean() > 1.5 * home[risk < 0.2].mean()  # confounding by indication
    means = data.frame.groupby("race_ethnicity")["social_need"].mean()
    assert means["Black"] > means["White"] + 0.1


def test_logged_propensities_are_the_policys(data):
    env = CareManagement()
    probabilities = env.behaviour(data.states)
    numbers = care_actions().encode(data.frame)
    np.testing.assert_allclose(
        probabilities[np.arange(len(numbers)), numbers], data.propensities, rtol=1e-5
    )
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    shares = np.bincount(numbers, minlength=97) / len(numbers)
    assert np.abs(shares - probabilities.mean(axis=0)).max() < 0.01


def test_the_same_seed_gives_the_same_data(data):
    again = generate_care_management(n_patients=400, n_weeks=20, seed=0)
    pd.testing.assert_frame_equal(again.frame, data.frame)
    other = generate_care_management(n_patients=400, n_weeks=20, seed=1)
    assert not other.frame.equals(data.frame)


def test_rewards_have_their_weights(data):
    whole = data.rewards()
    parts = [data.rewards(RewardWeights(*(float(i == j) for j in range(3)))) for i in range(3)]
    np.testing.assert_allclose(whole, parts[0] + 0.3 * parts[1] + 0.5 * parts[2])
    np.testing.assert_allclose(parts[0], -data.frame["acute_event"])


@pytest.mark.parametrize("name", ["data.parquet", "data.csv"])
def test_files_hold_the_data(data, tmp_path, name):
    data.write(tmp_path / name)
    read = CareData.read(tmp_path / name)
    np.testing.assert_array_equal(read.actions, data.actions)
    np.testing.assert_allclose(read.rewards(), data.rewards())


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("clinical_risk", 5, 1.5, "column 'clinical_risk', row 5: 1.5 is not in"),
        ("engagement", 3, np.nan, "column 'engagement', row 3: nan is missing"),
        ("modality", 2, "Fax", "column 'modality', row 2: 'Fax' is not one of Phone"),
        ("acute_event", 1, 2.0, "column 'acute_event', row 1: 2.0 is not 0 or 1"),
        ("propensity", 4, 0.0, "column 'propensity', row 4: 0.0 is not in"),
        ("week", 7, 9, "column 'week', row .: . is not 0, 1, "),
        ("social_need", 2, 0.123, "column 'social_need', row .: .* is not constant"),
    ],
)
def test_wrong_values_are_refused_by_column_and_row(data, column, row, value, message, tmp_path):
    frame = data.frame.copy()
    frame.loc[row, column] = value
    with pytest.raises(ValueError, match=message):
        CareData(frame)
    frame.to_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match=column):
        CareData.read(tmp_path / "wrong.parquet")


def test_the_order_of_rows_plays_no_part(data):
    shuffled = CareData(data.frame.sample(frac=1.0, random_state=0))
    pd.testing.assert_frame_equal(shuffled.frame, data.frame)
    np.testing.assert_array_equal(shuffled.actions, data.actions)
    np.testing.assert_array_equal(shuffled.rewards(), data.rewards())
    rng = np.random.default_rng(1)
    target = rng.dirichlet(np.ones(data.space.n_actions), len(data.frame))
    q = rng.random(target.shape)
    logged = logged_decisions(data, target)
    table = sensitivity(logged, q, biases=(0.1,), noises=(0.3,), truncations=(2.0,))
    order = rng.permutation(len(logged))
    moved = sensitivity(
        logged.rows(order), q[order], biases=(0.1,), noises=(0.3,), truncations=(2.0,)
    )
    pd.testing.assert_frame_equal(moved, table, check_exact=True)


def test_weeks_that_are_twice_or_missing_are_refused_with_patient_and_row(data):
    frame = data.frame.sample(frac=1.0, random_state=2).reset_index(drop=True)
    row = {k: frame.index[(frame["patient"] == 7) & (frame["week"] == k)][0] for k in (4, 5)}
    with pytest.raises(ValueError, match=f"row {row[5]}: 5 is not .*: patient 7 has no week 4"):
        CareData(frame.drop(index=row[4]))
    twice = pd.concat([frame, frame.loc[[row[4]]]], ignore_index=True)
    message = f"row {len(frame)}: .*patient 7 has week 4 twice, first in row {row[4]}"
    with pytest.raises(ValueError, match=message):
        CareData(twice)


def test_missing_columns_and_files_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="column 'goal' is missing"):
        CareData(data.frame.drop(columns="goal"))
    assert CareData(data.frame.drop(columns="propensity")).propensities is None
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(ValueError, match="cannot be read"):
        CareData.read(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("week", "third", "line 5, column 'week': 'third' is not a number"),
        ("acute_event", "yes", "line 5, column 'acute_event': 'yes' is not a number"),
        ("modality", "Fax", "line 5, column 'modality': 'Fax' is not one of Phone"),
        ("week", 2, r"line 5, column 'week': 2 is not .* has week 2 twice, first in line 4"),
    ],
)
def test_a_wrong_entry_of_a_file_is_found_by_its_line(data, tmp_path, name, column, value, message):
    frame = data.frame.astype(object)
    frame.loc[3, column] = value
    frame.to_csv(tmp_path / name, index=False)
    with pytest.raises(ValueError, match=f"{name}, {message}"):
        CareData.read(tmp_path / name)


def test_empty_lines_and_lines_in_quotes_count(data, tmp_path):
    frame = data.frame.astype({"patient": str})
    frame["patient"] = "a\nb" + frame["patient"]
    frame.loc[2, "modality"] = "Fax"
    header, rows = frame.to_csv(index=False).split("\n", 1)
    (tmp_path / "x.csv").write_text(f"\ufeff\n{header}\n\n{rows}")
    with pytest.raises(ValueError, match=r"x\.csv, line 8, column 'modality': 'Fax'"):
        CareData.read(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"patient,week\n1,2\n1,2,3\n", "line 3: 3 entries, but 2 columns are named"),
        (b'patient,week\n1,2\n"1,2\n', "line 3: a quote that begins there is not closed"),
        (b"patient,week\n1,\xe9\n", "line 2, column 3: the byte 0xe9 is not UTF-8"),
        ("patient,week\n1,2\n".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        (b"patient;week\n1;2\n", "the only one is 'patient;week'; separate by commas"),
        (b"patients,week\n1,2\n", "column 'patient' is missing .*: is it 'patients'?"),
        (b"patient,week\n", "'clinical_risk' is missing"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        CareData.read(tmp_path / "x.csv")
    assert str(error.value).startswith(str(tmp_path / "x.csv"))
    with pytest.raises(ValueError, match="is a folder"):
        CareData.read(tmp_path)


def test_a_table_of_ones_own_is_read_by_its_schema(data, tmp_path):
    calls = {"Phone": "tel", "Text/SMS": "sms", "Video": "video", "Home Visit": "Visit at home"}
    theirs = data.frame.rename(columns={"patient": "member", "clinical_risk": "risk"})
    theirs["modality"] = theirs["modality"].map(calls)
    theirs = theirs.sample(frac=1.0, random_state=0).assign(patient="not this one")
    theirs.to_csv(tmp_path / "log.csv.gz", index=False)
    back = {value: name for name, value in calls.items()}
    columns = {"patient": "member", "clinical_risk": "risk"}
    read = CareData.read(tmp_path / "log.csv.gz", schema=Schema(columns, {"modality": back}))
    pd.testing.assert_frame_equal(read.frame, data.frame, check_dtype=False)
    own = {**FACTORS, "modality": tuple(calls.values())}
    kept = CareData.read(tmp_path / "log.csv.gz", schema=Schema(columns, factors=own))
    assert kept.space.has_level("modality", "Visit at home").sum() > 0
    np.testing.assert_array_equal(kept.actions, data.actions)
    assert kept.of_patients(np.array([3])).factors == own
    read.write(tmp_path / "again.csv.gz")
    pd.testing.assert_frame_equal(CareData.read(tmp_path / "again.csv.gz").frame, read.frame)
    with pytest.raises(ValueError, match="'week' is column 'wk': the table has "):
        CareData.read(tmp_path / "log.csv.gz", schema=Schema({"week": "wk"}))
    with pytest.raises(ValueError, match=r"line 2, column 'modality': 'sms' is not one of"):
        CareData.read(tmp_path / "log.csv.gz", schema=Schema(columns))


def test_valid_actions_are_those_of_a_table_if_there_is_one(data):
    everything = data.with_valid(care_actions())
    assert everything.space.n_actions == 97
    few = everything.of_patients(np.arange(4))
    assert few.space.n_actions == 97  # not what happens to occur
    count = np.bincount(few.actions, minlength=97)
    name = ", ".join(care_actions().decode([int(count.argmin())])[0])
    message = f"action ({name}) occurs {count.min()} times among 4 patients, at least 3 are needed"
    others = re.escape("; likewise (") + ".*, and [0-9]+ more: more than 4 patients are needed"
    with pytest.raises(ValueError, match=re.escape(message) + others):
        few.refuse_rare(3, whose="4")
    most = int(np.bincount(everything.actions).min()) + 1
    enough = -(-everything.frame["patient"].nunique() * most // (most - 1))
    with pytest.raises(ValueError, match=f": about {enough} patients would have it so often"):
        everything.refuse_rare(most)
    everything.refuse_rare(int(np.bincount(everything.actions).min()))
    first = data.frame[list(FACTORS)].iloc[0].tolist()
    times = (data.frame[list(FACTORS)] == first).all(axis=1).sum()
    table = care_actions().table()
    without = table[~(table == first).all(axis=1)]
    message = f"action ({', '.join(first)}) is not among the 96 valid combinations, and occurs"
    with pytest.raises(ValueError, match=re.escape(f"{message} {times} times")):
        CareData(data.frame, valid=without)


def test_confounding_that_is_not_logged_changes_care_outcomes_and_nothing_else():
    plain, seen = simulate_care(300, 8, 0)
    pd.testing.assert_frame_equal(plain.frame, generate_care_management(300, 8, 0).frame)
    np.testing.assert_array_equal(seen, plain.states)
    data, hidden = simulate_care(300, 8, 0, confounding=2.0)
    extra = hidden[:, 0] - data.states[:, 0]
    np.testing.assert_array_equal(hidden[:, 1:], data.states[:, 1:])
    by_patient = pd.Series(extra).groupby(data.patients)
    inside = (hidden[:, 0] > 0) & (hidden[:, 0] < 1)
    spread = pd.Series(extra[inside]).groupby(data.patients[inside]).std().max()
    assert spread < 1e-6  # where nothing is cut off, constant for a patient
    assert by_patient.mean().std() > 0.15
    env = CareManagement()
    own = env.behaviour(hidden)[np.arange(len(hidden)), care_actions().encode(data.frame)]
    np.testing.assert_allclose(data.propensities, own, rtol=1e-5)
    sick = extra > np.median(extra)
    event = data.frame["acute_event"].to_numpy()
    assert event[sick].mean() > event[~sick].mean()


def test_weeks_are_transitions_that_anyone_can_learn_from(data):
    few = data.with_valid(care_actions()).of_patients(np.arange(3))
    t = few.transitions()
    assert len(t) == 3 * 19  # of twenty weeks
    np.testing.assert_array_equal(t.states[1:19], t.next_states[:18])
    np.testing.assert_allclose(t.next_states[18], few.states[19])
    assert all(not t.feasible.violations(action) for action in t.actions)
    np.testing.assert_allclose(t.rewards[:19], few.rewards()[:19])
    names = [name for levels in FACTORS.values() for name in levels]
    seen = [name for name, on in zip(names, t.actions[20], strict=True) if on]
    assert seen == few.frame[list(FACTORS)].iloc[21].tolist()
    policy = fit(t, config=OfflineConfig(method="iql", updates=2))
    assert not t.feasible.violations(policy.act(t.states[0]))


def test_patients_can_be_picked(data):
    some = data.of_patients(np.array([3, 5]))
    assert len(some.frame) == 40
    assert set(some.frame["patient"]) == {3, 5}
    assert list(FACTORS) == ["modality", "provider", "goal", "urgency"]


def test_a_folder_holds_the_report_of_one_data_set(data, tmp_path, monkeypatch):
    """The report itself is replaced by a file."""
    monkeypatch.setattr(care_report, "_write", lambda out, *_: out / "report.html")
    care_report.write_care_report(tmp_path, n_patients=300, epochs=2)
    care_report.write_care_report(tmp_path, n_patients=300, epochs=2, grids=False)
    with pytest.raises(ValueError, match="patients was 300, now 400; epochs was 2, now 3"):
        care_report.write_care_report(tmp_path, n_patients=400, epochs=3)
    with pytest.raises(ValueError, match="data was simulated, now"):
        care_report.write_care_report(tmp_path, data=data, epochs=2)
    with locked(tmp_path), pytest.raises(RuntimeError, match="in use"):
        care_report.write_care_report(tmp_path, n_patients=300, epochs=2)


@pytest.mark.parametrize("name", ["data.parquet", "data.csv", "data.csv.gz"])
def test_a_table_is_the_same_whatever_file_it_was_in(data, tmp_path, name):
    data.write(tmp_path / name)
    read = CareData.read(tmp_path / name)
    assert read.digest() == data.digest()
    np.testing.assert_array_equal(read.states, data.states)
    other = data.frame.assign(engagement=data.frame["engagement"] * 0.999)
    assert CareData(other).digest() != data.digest()


@pytest.mark.parametrize("called", ["None", "NA", "null"])
def test_a_group_may_be_called_what_stands_for_a_missing_number(data, tmp_path, called):
    frame = data.frame.copy()
    frame["race_ethnicity"] = frame["race_ethnicity"].astype(str)
    one = frame["race_ethnicity"].iloc[0]
    frame["race_ethnicity"] = frame["race_ethnicity"].replace({one: called})
    CareData(frame).write(tmp_path / "data.csv")
    read = CareData.read(tmp_path / "data.csv")
    assert (read.groups == called).sum() == (data.groups == one).sum() > 0
    numbers = data.frame.astype({"engagement": object})
    numbers.loc[numbers.index[3], "engagement"] = called
    numbers.to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(ValueError, match=r"line 5, column 'engagement': nan is missing"):
        CareData.read(tmp_path / "wrong.csv")
