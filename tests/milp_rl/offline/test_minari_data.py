"""Minari data sets keep the feasible set, and give the environment again."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.envs import make_bandit
from milp_rl.envs.transitions import Transitions, collect_transitions
from milp_rl.offline import OfflineConfig, fit, generate_care_management
from milp_rl.offline.minari_data import SETS, read_minari, write_minari
from milp_rl.offline.sepsis.data import generate_sepsis

minari = pytest.importorskip("minari")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def assert_same(one: Transitions, other: Transitions) -> None:
    for name in ("states", "actions", "rewards", "next_states", "terminated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.interventions, one.variables) == (other.interventions, other.variables)


def test_a_bandit_with_its_feasible_set_comes_back():
    env = make_bandit("capacity", 6, 2, horizon=7, seed=3)
    logged = collect_transitions(env, 30, np.random.default_rng(0))
    written = write_minari(logged, "bandit/random-v0", env, description="Random play.")
    assert written.total_episodes == 5  # of 7 steps, the last of 2
    assert len(written.storage.metadata[SETS]) == 1
    data = minari.load_dataset("bandit/random-v0")
    back = read_minari(data)
    assert_same(back, logged)
    assert back.feasible == env.action_space_block()
    again = data.recover_environment()
    np.testing.assert_array_equal(again.reset(seed=4)[0], env.reset(seed=4)[0])
    assert again.unwrapped.action_space_block() == env.action_space_block()
    policy = fit(read_minari("bandit/random-v0"), config=OfflineConfig(updates=5))
    assert not env.action_space_block().violations(policy.act(logged.states[0]))


def test_sets_that_differ_from_state_to_state_come_back():
    rng = np.random.default_rng(0)
    states = rng.integers(0, 3, (20, 2)).astype(float)

    states[10] = 0.0  # in which another episode has ended

    def feasible(state):
        if state[0] == 3:
            raise ValueError("nothing is feasible any more")
        return mr.BudgetTopK(4, 1 + int(state[0]))

    actions = np.concatenate([feasible(state).sample(rng, 1) for state in states])
    ends = np.zeros(20, dtype=bool)
    ends[9] = True
    following = np.concatenate([states[1:], [[2.0, 1.0]]])
    following[9] = 3.0
    logged = Transitions(states, actions, rng.normal(size=20), following, ends, feasible=feasible)
    write_minari(logged, "sets-v0")
    data = minari.load_dataset("sets-v0")
    assert [len(episode) for episode in data.iterate_episodes()] == [10, 10]
    assert [bool(episode.truncations[-1]) for episode in data.iterate_episodes()] == [False, True]
    back = read_minari(data)
    assert_same(back, logged)
    for state in (*states, following[-1]):
        assert back.feasible(state) == feasible(state)
    with pytest.raises(ValueError, match="no feasible set for state"):
        back.feasible(np.array([7.0, 7.0]))


def test_data_without_the_metadata_have_the_environments_set():
    env = gym.make("milp_rl/Bandit-v0", n_arms=5, budget=2)
    logged = collect_transitions(env, 6, np.random.default_rng(0))
    episode = minari.data_collector.EpisodeBuffer(
        observations=np.concatenate([logged.states, logged.next_states[-1:]]).astype(np.float32),
        actions=logged.actions.astype(np.int8),
        rewards=list(logged.rewards),
        terminations=[False] * 6,
        truncations=[False] * 5 + [True],
        infos={},
    )
    with pytest.warns(UserWarning, match="None"):
        minari.create_dataset_from_buffers("own-v0", [episode], env, data_format="arrow")
    back = read_minari("own-v0")
    np.testing.assert_array_equal(back.rewards, logged.rewards)
    assert back.feasible(logged.states[0]) == mr.BudgetTopK(5, 2)
    assert read_minari("own-v0", feasible=mr.BudgetTopK(5, 1)).feasible == mr.BudgetTopK(5, 1)


def test_without_a_feasible_set_nothing_is_written():
    logged = Transitions(np.zeros((2, 1)), np.zeros((2, 3)), np.zeros(2), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="no feasible set to write"):
        write_minari(logged, "none-v0")


def test_logged_stays_and_weeks_are_written_and_read_back():
    stays, weeks = generate_sepsis(4, seed=0), generate_care_management(3, 5, seed=0)
    for name, written in (("stays", stays.transitions()), ("weeks", weeks.transitions())):
        read = read_minari(write_minari(written, f"test/{name}-v0"))
        for column in ("states", "actions", "rewards", "next_states", "terminated"):
            found, wanted = getattr(read, column), getattr(written, column)
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
        assert read.feasible == written.feasible
        assert read.variables == written.variables


def test_whole_numbers_of_an_environment_do_not_cut_off_what_was_logged():
    class Whole(gym.Env):
        observation_space = gym.spaces.Box(0, 9, (2,), np.int64)
        action_space = gym.spaces.MultiBinary(3)

    states = np.array([[0.7, 3.0], [1.0, 2.0]])
    logged = Transitions(states, np.eye(3)[:2], np.zeros(2), states[::-1], np.array([False, True]))
    with pytest.raises(ValueError, match=r"dtype int64, in which 0\.7 would become 0"):
        write_minari(logged, "whole/random-v0", Whole(), feasible=mr.BudgetTopK(3, 1))
