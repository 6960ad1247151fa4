from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import milp_rl as mr
from milp_rl.dqn.networks import new_network
from milp_rl.envs import from_rddl
from milp_rl.envs.arms import arms_of
from milp_rl.envs.rddl_blocks import grouped

pytest.importorskip("pyRDDLGym")
repository = pytest.importorskip("rddlrepository")

# Pumps that are on or off and have a rate, a number of crews, and what couples them.
DOMAIN = """
domain pumps {
    types { pump : object; gear : {@slow, @fast, @off}; };
    pvariables {
        LIMIT(pump) : { non-fluent, real, default = 2.0 };
        NEXT(pump, pump) : { non-fluent, bool, default = false };
        wet(pump) : { state-fluent, bool, default = true };
        water(pump) : { state-fluent, real, default = 1.0 };
        budget : { state-fluent, int, default = 2 };
        on(pump) : { action-fluent, bool, default = false };
        rate(pump) : { action-fluent, real, default = 0.0 };
        crews : { action-fluent, int, default = 0 };
        shift : { action-fluent, gear, default = @slow };
    };
    cpfs {
        wet'(?p) = if (on(?p)) then false else Bernoulli(0.5);
        water'(?p) = water(?p) + Normal(0.0, 1.0) - rate(?p);
        budget' = if (budget > 0) then budget - 1 else 3;
    };
    reward = sum_{?p : pump} [on(?p) * water(?p)] - crews + (shift == @fast);
    action-preconditions {
        forall_{?p : pump} [rate(?p) >= 0 ^ rate(?p) <= LIMIT(?p)];
        crews >= 0;
        crews < 4;
        shift == @fast => crews >= 1;
        shift ~= @off | budget < 2;
        forall_{?p : pump} [~on(?p) => rate(?p) <= 0];
        forall_{?p : pump} [on(?p) => (wet(?p) | crews >= 2)];
        forall_{?p : pump, ?q : pump} [(NEXT(?p, ?q) ^ on(?p)) => ~on(?q)];
        (sum_{?p : pump} [on(?p)]) <= min[budget, 2] + 0.5;
        (exists_{?p : pump} [wet(?p)]) => (exists_{?p : pump} [on(?p)]) | budget == 0;
    };
}
"""
INSTANCE = """
non-fluents nf { domain = pumps; objects { pump : {p1, p2, p3}; };
    non-fluents { NEXT(p1, p2) = true; LIMIT(p3) = 5.0; }; }
instance i { domain = pumps; non-fluents = nf; max-nondef-actions = pos-inf; horizon = 12;
    discount = 0.9; }
"""


@pytest.fixture(scope="module")
def pumps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rddl")
    for name, text in (("domain", DOMAIN), ("instance", INSTANCE)):
        (folder / f"{name}.rddl").write_text(text)
    return from_rddl(folder / "domain.rddl", folder / "instance.rddl")


def allowed(env, action):
    """Whether pyRDDLGym allows an action in the environment's present state."""
    actions = env._played(np.asarray(action))
    env.simulator.check_default_action_count(actions)
    return env.simulator.check_action_preconditions(actions, silent=True)


@pytest.mark.parametrize(
    ("domain", "instance", "most"),
    [
        ("SysAdmin_MDP_ippc2011", "1", 4),
        ("Tamarisk_MDP_ippc2014", "1", 2),
        ("Intruders_Discrete", "0", 2),
    ],
)
def test_it_is_pyrddlgyms_own_environment(domain, instance, most):
    from pyRDDLGym.core.env import RDDLEnv

    problem = repository.core.manager.RDDLRepoManager().get_problem(domain)
    files = problem.get_domain(), problem.get_instance(instance)
    own = RDDLEnv(*files, vectorized=True)
    own.model.max_allowed_actions = most
    env = from_rddl(domain, instance, max_actions=most)
    assert (env.horizon, env.discount) == (own.horizon, own.discount)
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        state, _ = env.reset(seed=seed)
        seen, _ = own.reset(seed=seed)
        for _ in range(env.horizon):
            action = env.action_space_block(state).sample(rng)[0]
            state, *mine = env.step(action)
            seen, *theirs = own.step(env._played(action))
            assert mine == theirs
            read = env._layout.state(state)
            assert all((read[name] == value).all() for name, value in seen.items())
        assert mine[1:3] == [False, True]


def test_preconditions_of_every_kind_of_action(pumps):
    assert pumps.action_names[-4:] == ("crews", "shift = slow", "shift = fast", "shift = off")
    rng = np.random.default_rng(0)
    state, _ = pumps.reset(seed=0)
    grid = list(itertools.product([0, 1], [0, 1], [0, 1], [0, 1.5], [0, 2.5], [0, 4.5], range(5)))
    grid = [(*action, *shift) for action in grid for shift in np.eye(3, dtype=int).tolist()]
    found = []
    for step in range(12):
        block = pumps.action_space_block(state)
        for action in grid[step % 4 :: 4]:
            assert allowed(pumps, action) == (not block.violations(action)), (state, action)
            found.append(allowed(pumps, action))
        state, _, _, truncated, _ = pumps.step(block.sample(rng)[0])
    assert truncated
    assert 0.02 < np.mean(found) < 0.5
    assert len(pumps._blocks) > 3


@pytest.mark.parametrize("domain", ["ChromaticDice_ippc2018", "RedFinnedBlueEye_ippc2018"])
def test_preconditions_of_competition_domains(domain):
    env = from_rddl(domain, "1")
    rng = np.random.default_rng(1)
    state, _ = env.reset(seed=0)
    verdicts = []
    for _ in range(12):
        block = env.action_space_block(state)
        good = block.sample(rng)[0]
        for changes in (0, 1, 1, 2, 2):
            action = good.copy()
            action[rng.integers(len(action), size=changes)] ^= 1
            verdicts.append(allowed(env, action))
            assert verdicts[-1] == (not block.violations(action))
        state = env.step(good)[0]
    assert {True, False} <= set(verdicts)
    with pytest.raises(ValueError, match="infeasible action"):
        env.step(1 - env.action_space_block(state).sample(rng)[0])


def test_a_state_by_arm():
    env = from_rddl("Tamarisk_MDP_ippc2014", "1")
    arms, slots = env.arm_layout, env.simulator.init_values["SLOT-AT-REACH"]
    assert arms.names == ("r1", "r2", "r3", "r4")
    assert (arms.arm_features, arms.arm_actions, arms.shared_features) == (4, 2, 0)
    assert env.action_names[:3] == ("eradicate(r1)", "restore(r1)", "eradicate(r2)")
    played = env._played(np.array([1, 0, 0, 0, 0, 0, 0, 1]))
    assert played["eradicate"].tolist() == [True, False, False, False]
    assert played["restore"].tolist() == [False, False, False, True]
    state, _ = env.reset(seed=0)
    fluents = env._layout.state(state)
    by_reach = [
        np.concatenate([fluents[name][slots[:, reach]] for name in ("tamarisk-at", "native-at")])
        for reach in range(4)
    ]
    np.testing.assert_array_equal(state.reshape(4, 4), by_reach)
    down = env.simulator.init_values["DOWNSTREAM-REACH"]
    np.testing.assert_array_equal(arms.neighbours, down | down.T)
    network = new_network(
        mr.DQNConfig(), 16, 8, arms_of(env, 16, 8), torch.Generator().manual_seed(0)
    )
    result = mr.argmax(network, state, env.action_space_block(state))
    assert result.status == "optimal"


@pytest.mark.parametrize("seed", range(30))
def test_groups_of_actions_are_the_rows_that_they_stand_for(seed):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.choice(np.arange(1, 8), size=2, replace=False))
    allowed = rng.random(8) < 0.8 if seed % 2 else np.ones(8, dtype=bool)
    rows = []
    for first, last in zip([0, *ends], [*ends, 8], strict=True):
        group, k = range(first, last), int(rng.integers(1, last - first + 1))
        kind = rng.integers(3)
        if kind:
            rows.append((dict.fromkeys(group, 1.0), k + 0.5 * (kind == 1)))
        if kind == 2:
            rows.append((dict.fromkeys(group, -1.0), -k))
    if seed % 3:
        rows.append((dict.fromkeys(range(8), 1.0), int(rng.integers(3, 6))))
    try:
        block = grouped(allowed, rows)
    except ValueError:
        block = None
    everything = np.array(list(itertools.product([0, 1], repeat=8)))
    wanted = (everything <= allowed).all(axis=1)
    for row, right in rows:
        wanted &= everything[:, list(row)] @ list(row.values()) <= right
    if allowed.all():
        assert block is not None
    if block is not None:
        np.testing.assert_array_equal(block.feasible(everything.astype(np.int8)), wanted)


def test_rows_that_are_no_groups():
    ones = np.ones(4, dtype=bool)
    assert grouped(ones, [({0: 1.0, 2: 1.0}, 1)]) is None
    assert grouped(ones, [({0: 1.0, 1: 2.0}, 1)]) is None
    assert grouped(ones, [({0: 1.0, 1: 1.0}, 1), ({1: 1.0, 2: 1.0}, 1)]) is None
    assert grouped(ones, [({0: -1.0, 1: -1.0}, -1)]) is None
    assert grouped(ones, [({0: 1.0, 1: 1.0}, -1)]) is None


def test_objects_in_a_state_are_told_apart():
    env = from_rddl("ChromaticDice_ippc2018", "1")
    state, _ = env.reset(seed=0)
    phase = [
        name
        for name, value in zip(env.feature_names, state, strict=True)
        if name.startswith("current-phase") and value
    ]
    assert phase == ["current-phase = roll1"]
    np.testing.assert_array_equal(env._layout.vector(env._layout.state(state)), state)


def test_a_limit_of_actions_that_are_not_the_default():
    env = from_rddl("Sidewalk_rddlsim", "0", max_actions=1)
    assert env.arm_layout.arm_actions == 5
    assert env.action_names[1].startswith("walk(")
    env.reset(seed=0)
    played = env.action_space_block(None).enumerate()
    assert len(played) == 1 + 2 * 4  # two walk, in one of five directions each
    assert all(allowed(env, action) for action in played)


def test_spaces(pumps):
    sysadmin = from_rddl("SysAdmin_MDP_ippc2011", "1", max_actions=3)
    assert sysadmin.action_space_block(None) == mr.BudgetTopK(10, 3)
    for env in (sysadmin, pumps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # real fluents have no bounds
            check_env(env, skip_render_check=True)
    assert pumps.action_space.dtype == np.float64
    np.testing.assert_array_equal(pumps.action_space.high, [1, 1, 1, 2, 2, 5, 3, 1, 1, 1])


@pytest.mark.parametrize(
    ("domain", "instance", "message"),
    [
        ("ComplexSysAdmin_rddlsim", "0", "partially observed"),
        ("EarthObservation_ippc2018", "1", r"precondition .* counts a condition on several"),
        ("HVAC_ippc2023", "0", r"fan-in\(z1\) has no bounds, its preconditions say \[0.05, inf\]"),
        ("Sudoku_arcade", "0", r"at most 1 of 16 .* fill\(r1, c1\) is not boolean"),
        ("SysAdmin_MDP_ippc2011", "11", "no instance '11'"),
        ("SysAdmin", "1", "no problem of rddlrepository"),
    ],
)
def test_what_cannot_be_had_is_refused(domain, instance, message):
    with pytest.raises(ValueError, match=message):
        from_rddl(domain, instance)


def test_given_bounds():
    env = from_rddl("HVAC_ippc2023", "0", action_bounds={"fan-in": (0, 3), "heat-input": (0, 9)})
    assert env.action_space_block(None) == mr.Box([0.05, 0], [3, 9])
    with pytest.raises(ValueError, match="no action fluents"):
        from_rddl("HVAC_ippc2023", "0", action_bounds={"fan": (0, 3)})
