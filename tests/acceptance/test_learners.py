"""The comparison of learners: actions built one item at a time, and going on."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

import milp_rl as mr
from milp_rl.envs import DynamicAssortment, make_bandit
from milp_rl.envs.spaces import FeasibleBox
from milp_rl.evaluation import evaluate

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.learners import __main__ as program
from benchmarks.learners import records, sweep, table
from benchmarks.learners.building import Build, OneAtATime, Projected, SamplesOnly
from benchmarks.learners.domains import DOMAINS, RULES, Random

CAPACITY = mr.Capacity(costs=[2, 3, 4, 5, 2], capacities=[6, 4])
SETS = [
    mr.BudgetTopK(5, 2),
    mr.BudgetTopK(5, 2, exactly=True),
    CAPACITY,
    mr.Box([0.0, 0.0, 1.0], [2.0, 3.0, 2.0], integer=range(3)),
]


def rows(actions):
    return {tuple(int(value) for value in action) for action in actions}


@pytest.mark.parametrize("space", SETS, ids=lambda space: repr(space)[:30])
def test_choices_that_the_masks_allow_build_all_feasible_actions_and_no_other(space):
    found, prefixes = set(), [()]
    while prefixes:
        prefix = prefixes.pop()
        build = Build(space)
        for choice in prefix:
            build.choose(choice)
        if build.done:
            found |= rows([build.action])
            continue
        prefixes += [(*prefix, int(choice)) for choice in np.flatnonzero(build.allowed())]
    assert found == rows(space.enumerate())


def test_a_choice_outside_the_mask_is_refused():
    build = Build(mr.BudgetTopK(4, 2, exactly=True))
    with pytest.raises(ValueError, match="not allowed"):
        build.choose(4)  # to stop before there are two
    build.choose(1)
    with pytest.raises(ValueError, match="not allowed"):
        build.choose(1)


def test_built_episodes_are_those_of_the_environment():
    env = make_bandit("capacity", 5, 2, seed=0)
    single, rng = OneAtATime(SamplesOnly(env)), np.random.default_rng(0)
    observed, _ = single.reset(seed=3)
    single.steps, actions, rewards, over = 0, [], [], False
    while not over:
        assert observed in single.observation_space
        build = single.build
        choice = rng.choice(np.flatnonzero(single.action_masks()))
        observed, reward, terminated, over, _ = single.step(choice)
        assert not terminated
        if build.done:
            actions.append(build.action)
            rewards.append(reward)
        else:
            assert reward == 0.0
    assert single.steps == len(actions) == env.horizon
    other = make_bandit("capacity", 5, 2, seed=0)
    other.reset(seed=3)
    np.testing.assert_allclose([other.step(action)[1] for action in actions], rewards)


def test_a_model_is_hidden_and_bits_are_projected():
    env = DynamicAssortment(6, 2)
    hidden = SamplesOnly(env)
    assert not hasattr(hidden.unwrapped, "expected_reward")
    assert hidden.arm_layout is env.arm_layout
    projected = Projected(hidden, bits=True)
    state, _ = projected.reset(seed=0)
    for bits in (np.zeros(6), np.ones(6), np.eye(6)[2]):
        action = projected.feasible(state, bits)
        assert env.action_space_block().violations(action) == []
        assert action[2] == 1 or bits.sum() != 1


def test_integers_are_scores_stretched_over_their_range():
    class Orders(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        action_space = FeasibleBox(SETS[3])

        def action_space_block(self, state):
            return SETS[3]

    projected = Projected(Orders(), bits=True)
    assert isinstance(projected.action_space, gym.spaces.Box)
    state = np.zeros(1, np.float32)
    for score, wanted in ((-1.0, [0, 0, 1]), (1.0, [2, 3, 2]), (0.2, [1, 2, 2])):
        assert projected.feasible(state, np.full(3, score)).tolist() == wanted


def test_rows_that_are_there_are_skipped(tmp_path, monkeypatch, capsys):
    file = tmp_path / "results.csv"
    options = ["--domain", "assortment", "--learner", "random", "heuristic", "--results", str(file)]

    def compare(*more):
        monkeypatch.setattr(sys, "argv", ["learners", *options, *more])
        program.main()
        return records.read(file)

    first = compare("--seed", "0")
    assert list(zip(first["learner"], first["seed"], strict=True)) == [
        ("heuristic", 0),
        ("random", 0),
    ]
    assert first.set_index("learner")["mean"]["heuristic"] > first["mean"].min()
    first.assign(mean=-1.0).to_csv(file, index=False)
    second = compare("--seed", "0", "1")
    assert second.set_index(["learner", "seed"])["mean"]["random", 0] == -1.0
    assert second.set_index(["learner", "seed"])["mean"]["random", 1] > 0
    assert len(second) == 3
    assert capsys.readouterr().out.count("assortment") == 3


def test_rows_added_at_the_same_time_are_all_kept(tmp_path):
    file = tmp_path / "results.csv"
    keys = [{"domain": "d", "learner": "l", "seed": i, "steps": 5, "mean": 1.5} for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: records.add(file, row), keys))
    kept = pd.read_csv(file)
    assert kept["seed"].tolist() == list(range(12))
    assert records.has(file, domain="d", learner="l", seed=3, steps=5)
    assert not records.has(file, domain="d", learner="l", seed=12, steps=5)


def test_the_returns_shown_are_those_measured():
    page = table.PAGE.read_text()
    assert table.written(page) == page, "run: python -m benchmarks.learners.table"
    rows = records.read(program.RESULTS)
    own = rows[(rows["domain"] == "sysadmin20") & (rows["learner"] == "ppo")]["mean"]
    line = next(line for line in page.splitlines() if line.startswith("| sysadmin20 |"))
    assert f"| {own.mean():.1f} ± {np.std(own, ddof=1) / len(own) ** 0.5:.1f} |" in line


def test_what_is_said_of_the_returns_is_so():
    rows = records.read(program.RESULTS)
    equal = rows[rows["steps"].isin([0, table.STEPS])]
    mean = equal.pivot_table("mean", "domain", "learner")
    own, best = mean[table.LAST].dropna(), mean["heuristic"]
    others = mean[["random", "ppo", "maskable-ppo", "dnc"]].max(axis=1)
    assert own.index[own < others[own.index]].tolist() == ["inventory"]
    error = equal.groupby(["domain", "learner"])["standard_error"].mean()
    close = own.index[own < others[own.index] + error.unstack()[table.LAST][own.index]]
    assert close.tolist() == ["inventory"]
    trained = equal[equal["learner"] == table.LAST].groupby("domain")["seed"].nunique()
    assert len(trained) == 11
    assert (trained == 3).all()
    others = {"wildfire72", "capacity40", "capacity100", "inventory_timed"}
    assert set(mean.index) - set(own.index) == others
    for domain in ("sysadmin20", "sysadmin50"):
        assert abs(own[domain] - best[domain]) < error[domain, "heuristic"]
    assert 0.74 < own["tamarisk16"] / best["tamarisk16"] < 0.77  # both are losses
    for domain in ("capacity20", "path20", "scheduling20"):
        assert own[domain] / best[domain] > 1.45
    below = own.index[own < best[own.index] - error.unstack()["heuristic"][own.index]]
    assert below.tolist() == ["advising30", "assortment", "inventory", "life30"]
    words = " ".join(table.PAGE.read_text().split())
    assert f"dynamic assortment ({own['assortment'] / best['assortment']:.0%})" in words
    life = rows[(rows["domain"] == "life30") & (rows["learner"] == table.LAST)]["mean"]
    assert (
        f"Game of Life ({own['life30']:.0f} of {best['life30']:.0f};"
        " {:.0f}, {:.0f} and {:.0f})".format(*life)
        in words
    )
    several = equal[equal["domain"] == "multiple_interventions20"].set_index("learner")["mean"]
    assert "of three ({:.0f}, {:.0f} and {:.0f})".format(*several[table.LAST]) in words
    assert f"MaskablePPO does ({several['maskable-ppo']:.0f})" in words
    assert f"do nothing ({own['advising30']:.0f}, {best['advising30']:.0f})" in words
    stock = rows[rows["domain"] == "inventory"].set_index(["learner", "steps"])["mean"]
    late, soon = ([f"{x:.0f}" for x in stock[table.LAST, steps]] for steps in (10_000, 3000))
    assert "differ widely**: three get {}, {} and {} after 10,000 steps".format(*late) in words
    assert "and {}, {} and {} after 3,000".format(*soon) in words
    twice = stock["milp-rl, two critics", 10_000]
    get = "`critics=2`), get {:.0f}, {:.0f} and {:.0f} by the last weights".format(*twice)
    assert f"{get}, in not quite twice the time" in words
    single = stock[table.LAST, 10_000]
    assert (twice.to_numpy() > single.to_numpy()).sum() == 2
    assert twice.min() > 5 * single.min()
    spent = rows[rows["domain"] == "inventory"].groupby(["learner", "steps"])["cpu_seconds"].mean()
    assert 1.5 < spent["milp-rl, two critics", 10_000] / spent[table.LAST, 10_000] < 2
    former = mean["milp-rl, step size 1e-3"]
    assert f"Advising came out better ({former['advising30']:.0f}, one training)" in words
    assert life.min() < former["life30"] < life.max()
    assert f"among the three of later ({former['life30']:.0f}, one training)" in words
    assert f"({former['tamarisk16']:.0f}, {former['assortment']:.0f}; three each)" in words
    assert former["advising30"] > own["advising30"]
    assert (former - own)[["tamarisk16", "assortment"]].max() < 0
    soon = rows[(rows["domain"] == "sysadmin20") & (rows["learner"] == table.LAST)]
    soon = soon[soon["steps"] == 3000]
    assert len(soon) == 3
    assert soon["mean"].min() > 700
    assert soon["cpu_seconds"].max() < 60


def test_what_is_said_of_averaged_weights_is_so():
    rows = records.read(program.RESULTS)
    words = " ".join(table.PAGE.read_text().split())
    mean = rows.groupby(["learner", "steps", "domain"])["mean"].mean()
    swept = records.read(sweep.RESULTS)  # after 3,000 steps, by the last weights
    swept = swept[swept["learner"] == "learning_rate=3e-4"].groupby("domain")["mean"].mean()
    before = {10_000: mean[table.LAST, 10_000], 3000: swept}
    for domain, steps in (
        *((name, 10_000) for name in ("inventory", "tamarisk16", "assortment")),
        *((name, 3000) for name in ("tamarisk16", "inventory")),
    ):
        now, last = mean["milp-rl", steps, domain], before[steps][domain]
        assert now > last
        assert f"{now:.0f} against {last:.0f}" in words
    for domain in ("capacity20", "path20", "scheduling20"):
        now, last = mean["milp-rl", 3000, domain], before[3000][domain]
        assert 0.92 * last < now < last
        assert f"{domain.removesuffix('20')} ({now:.0f} against {last:.0f})" in words
    own = rows[(rows["learner"] == "milp-rl") & (rows["steps"] == 10_000)]
    walked = own[own["domain"] == "path20"]["mean"]
    now, last = walked.mean(), before[10_000]["path20"]
    said = "path ({:.0f} against {:.0f}; {:.0f}, {:.0f} and {:.0f})".format(now, last, *walked)
    assert f"the same within a standard error in capacity, {said} and scheduling," in words
    ended = rows[rows["steps"] == 10_000].groupby(["learner", "domain"])["mean"]
    error = (ended.std() / ended.count() ** 0.5)[["milp-rl", table.LAST]].unstack(0).max(axis=1)
    for domain in ("capacity20", "path20", "scheduling20"):
        both = mean["milp-rl", 10_000, domain], before[10_000][domain]
        assert abs(both[0] - both[1]) <= error[domain], domain
    machines = mean["milp-rl", 10_000, "sysadmin20"] / before[10_000]["sysadmin20"]
    assert abs(machines - 1) < 0.001
    several = [
        "{:.0f}, {:.0f} and {:.0f}".format(
            *kind[kind["domain"] == "multiple_interventions20"]["mean"]
        )
        for kind in (own, rows[(rows["learner"] == table.LAST) & (rows["steps"] == 10_000)])
    ]
    assert "interventions {}, where the last weights get {}.".format(*several) in words
    stock = own[own["domain"] == "inventory"]["mean"]
    assert "Averages get {:.0f}, {:.0f} and {:.0f} after 10,000".format(*stock) in words
    assert stock.max() < mean["ppo", 10_000, "inventory"]
    peers = rows[rows["learner"] == "ppo"].set_index("domain")["mean"]
    assert "PPO ({:.0f}, {:.0f} and {:.0f})".format(*peers["inventory"]) in words
    timed = own[own["domain"] == "inventory_timed"]["mean"]
    assert "these are {:.0f}, {:.0f} and {:.0f}, and PPO".format(*timed) in words
    assert "PPO gets {:.0f}, {:.0f} and {:.0f}: a tie".format(*peers["inventory_timed"]) in words
    for domain, sign, said in (
        (
            "inventory",
            -1,
            "({:.0f} after 3,000 steps and {:.0f} after 10,000, in the mean of three",
        ),
        ("inventory_timed", 1, "averages get {:.0f} after 3,000 steps and {:.0f} after 10,000;"),
    ):
        soon, late = (mean["milp-rl", steps, domain] for steps in (3000, 10_000))
        assert sign * (late - soon) > 0
        assert said.format(soon, late) in words
    errors = [np.std(x, ddof=1) / 3**0.5 for x in (timed, peers["inventory_timed"])]
    assert abs(timed.mean() - peers["inventory_timed"].mean()) < max(errors)
    counts = own.groupby("domain")["seed"].nunique()
    said = []
    assert set(counts) == {1, 3}
    for number, word in ((3, "three trainings in"), (1, "one in")):
        names = [
            name if name.startswith("sysadmin") else name.rstrip("0126").replace("_", " ")
            for name in counts.index[counts == number]
        ]
        listed = f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else names[0]
        said.append(f"{word} {listed}")
    assert ", ".join(said) in words
    assert mr.DQNConfig().average_decay == 0.999


def test_what_is_said_of_the_sweep_is_so():
    rows = records.read(sweep.RESULTS)
    assert set(rows["domain"]) == set(sweep.DOMAINS)
    assert mr.DQNConfig().learning_rate == 3e-4
    mean = rows.pivot_table("mean", ["learner", "seed"], "domain")
    more = mean.loc["learning_rate=3e-4"] - mean.loc["learning_rate=1e-3"]
    assert more.shape == (3, 9)
    better = (more > 0).sum()
    assert (better["tamarisk16"], better["assortment"], better["inventory"]) == (3, 3, 2)
    others = more.drop(columns=["tamarisk16", "assortment", "inventory", "advising30"])
    assert ((others > 0).any() & (others < 0).any()).all()
    assert (mean["advising30"].drop("n_step=3") == -200).all()
    assert mean.loc["n_step=3"]["advising30"].max() < -200
    lines = table.sweep(rows, records.read(program.RESULTS)).splitlines()[2:]
    assert lines[0].startswith("| `learning_rate=3e-4` |")
    last = [line.split("`")[1] for line in lines[-3:]]
    assert sorted(last) == ["learning_rate=3e-3", "n_step=3", "updates_per_step=4"]
    seconds = rows.groupby("learner")["cpu_seconds"].mean()
    assert 0.6 < seconds["updates_per_step=1"] / seconds["learning_rate=1e-3"] < 0.72
    stock = mean["inventory"].unstack()
    assert (stock.max(axis=1) - stock.min(axis=1)).max() > 80


def test_the_page_says_what_the_heuristics_are():
    page = table.PAGE.read_text()
    for name, domain in DOMAINS.items():
        assert f"| {domain.rule} |" in page, name


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RULES, "assortment", "inventory", "inventory_timed"])
def test_every_heuristic_earns_more_than_random_play(name):
    pytest.importorskip("or_gymnasium" if name.startswith("inventory") else "pyRDDLGym")
    domain = DOMAINS[name]
    env = domain.make()
    policies = {"heuristic": domain.heuristic(env), "random": Random(env, 0)}
    means = evaluate(env, policies, seeds=range(5)).groupby("policy")["reward"].mean()
    assert means["heuristic"] > means["random"]


def test_a_drawn_network_of_computers_is_a_domain_of_its_size():
    pytest.importorskip("pyRDDLGym")
    from benchmarks.learners.transfer import sysadmin

    env = sysadmin(30)
    assert env.arm_layout.n_arms == 30
    assert (env.arm_layout.neighbours.sum(axis=1) >= 3).all()
    state, _ = env.reset(seed=0)
    assert state.tolist() == [1.0] * 30
    assert env.action_space_block(state) == mr.BudgetTopK(30, 3)
    assert env.step(np.zeros(30, dtype=np.int8))[1] == 30


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["milp-rl", "ppo", "ppo-scores", "maskable-ppo", "dnc"])
def test_every_learner_is_trained_and_plays_feasible_actions(learner):
    if "ppo" in learner:
        pytest.importorskip("sb3_contrib")
    settings = {"pretrain_epochs": 0} if learner == "milp-rl" else {}
    row = program.run("assortment", learner, 0, 160, settings)
    assert 0 < row["mean"] < 800
    assert row["episodes"] == 50
