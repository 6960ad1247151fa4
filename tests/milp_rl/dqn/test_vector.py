"""Training on the environments of a vector environment, side by side."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import milp_rl as mr
from milp_rl.dqn import Callback, DQNAgent, DQNConfig, EvaluationCallback
from milp_rl.envs import MaskedObservation, make_bandit
from milp_rl.envs.vector import ParallelEpisodes
from milp_rl.evaluation import evaluate_parallel

SMALL = DQNConfig(
    encoder=(4,),
    head=(6,),
    episodes=8,
    batch_size=8,
    sync_every=5,
    epsilon_decay=15.0,
    buffer_size=500,
    pretrain_epochs=2,
    random_steps=12,
    solver="enumeration",
)
MODES = list(AutoresetMode)


class Known(gym.Env):
    """Shows which episode it is, and how far: every transition can be checked by itself.

    Episodes are of 3 to 7 steps; those whose number is even are terminated, the others truncated.
    In every other step two of the three may be chosen, else one.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 10, (6,), np.float32)
        self.action_space = spaces.MultiBinary(3)

    def action_space_block(self, state):
        return mr.BudgetTopK(3, 1 + int(state[1]) % 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(6, dtype=np.float32)
        self.state[0] = self.np_random.integers(0, 2**20) / 2**20 * 10
        self.state[2] = self.np_random.integers(3, 8)
        return self.state.copy(), {}

    def step(self, action):
        assert not self.action_space_block(self.state).violations(action)
        self.state, reward = follows(self.state, np.asarray(action))
        over = bool(self.state[1] == self.state[2])
        terminated = over and bool(self.state[2] % 2 == 0)
        return self.state.copy(), reward, terminated, over and not terminated, {}


def follows(state, action):
    after = state.copy()
    after[1] += 1
    after[3:] = (state[3:] + action) / 2
    return after, float(state[0] + 10 * action @ [1, 2, 3] + state[1])


def several(mode, n=3, kind=SyncVectorEnv, make=Known):
    return kind([make] * n, autoreset_mode=mode)


def weights(agent: DQNAgent) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in agent.network.parameters())


def remembered(agent: DQNAgent) -> dict[str, np.ndarray]:
    """What was played, without the random steps that training begins with."""
    return {
        name: column[agent.random_steps : len(agent.learner.replay)]
        for name, column in agent.learner.replay._data.items()
    }


@pytest.mark.parametrize("mode", MODES)
def test_what_is_remembered_is_what_happened_in_one_of_the_environments(mode):
    agent = DQNAgent(several(mode), SMALL, seed=0).learn(150)
    rows = remembered(agent)
    assert 138 <= agent.step < 141
    assert len(rows["rewards"]) == agent.step
    for s, a, r, after, bootstrap in zip(*rows.values(), strict=True):
        wanted, reward = follows(s, a)
        np.testing.assert_allclose(after, wanted, atol=1e-6)
        assert r == pytest.approx(reward, rel=1e-6)
        ended = after[1] == after[2] and after[2] % 2 == 0
        assert bootstrap == pytest.approx(0 if ended else 0.99)
    firsts = rows["states"][rows["states"][:, 1] == 0]
    assert len(np.unique(firsts[:, 0])) == len(firsts) == agent.episode + 3 - _due(agent)
    assert [row["episode"] for row in agent.history] == list(range(agent.episode))
    assert sum(row["steps"] for row in agent.history) + _running(agent) == agent.step


def _running(agent: DQNAgent) -> int:
    return sum(len(episode.actions) for episode in agent.running)


def _due(agent: DQNAgent) -> int:
    return sum(not episode.actions for episode in agent.running)


@pytest.mark.parametrize("mode", MODES)
def test_returns_over_several_steps_are_those_of_one_environment(mode):
    agent = DQNAgent(several(mode), replace(SMALL, n_step=3), seed=0).learn(100)
    rows = remembered(agent)
    for s, a, r, after, bootstrap in zip(*rows.values(), strict=True):
        assert after[0] == s[0]
        steps = int(after[1] - s[1])
        assert steps == 3 or (after[1] == after[2] and steps < 3)
        first = follows(s, a)[1]
        rest = r - first  # of later actions: 10 to 50 each
        least = sum(0.99**k * (s[0] + s[1] + k) for k in range(1, steps))
        assert least - 1e-3 <= rest <= least + 50 * (steps - 1) + 1e-3
        ended = after[1] == after[2] and after[2] % 2 == 0
        assert bootstrap == pytest.approx(0 if ended else 0.99**steps)


def test_the_last_observations_are_found_in_a_list_of_infos_too():
    vector = gym.wrappers.vector.DictInfoToList(several(AutoresetMode.SAME_STEP))
    plain = DQNAgent(several(AutoresetMode.SAME_STEP), SMALL, seed=0).learn(100)
    assert weights(DQNAgent(vector, SMALL, seed=0).learn(100)) == weights(plain)


def test_one_environment_side_by_side_with_none_is_trained_on_as_it_is_alone():
    alone = DQNAgent(Known(), SMALL, seed=2).train()
    agent = DQNAgent(several(AutoresetMode.DISABLED, 1), SMALL, seed=2).train()
    assert weights(agent) == weights(alone)
    assert agent.history[-1]["reward"] == alone.history[-1]["reward"]


class Die(Callback):
    def __init__(self, after: int) -> None:
        self.left = after

    def on_step(self, agent):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, n_step):
    config = replace(SMALL, n_step=n_step)
    fresh = lambda: DQNAgent(several(AutoresetMode.DISABLED), config, seed=0)  # noqa: E731
    whole = fresh().train()
    assert 8 <= whole.episode <= 10
    assert weights(fresh().learn(25).learn(12 + whole.step)) == weights(whole)
    for moment in range(2, whole.step, 3):  # a part of every step of the three
        file = tmp_path / f"{moment}.pt"
        with pytest.raises(KeyboardInterrupt):
            fresh().train([Die(moment)], checkpoint=file, checkpoint_every=1)
        resumed = fresh().train(checkpoint=file)
        assert weights(resumed) == weights(whole)
        assert [row["reward"] for row in resumed.history] == [
            row["reward"] for row in whole.history
        ]
    assert weights(fresh().train(checkpoint=file)) == weights(whole)  # it is over


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_where_episodes_begin_by_themselves_a_run_goes_on_with_new_ones(tmp_path, mode):
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        DQNAgent(several(mode), SMALL, seed=0).learn(
            100, callbacks=[Die(20)], checkpoint=file, checkpoint_every=1
        )
    resumed = DQNAgent(several(mode), SMALL, seed=0).learn(100, checkpoint=file)
    states = remembered(resumed)["states"]
    assert len(states) == resumed.step >= 88
    beginnings = states[states[:, 1] == 0][:, 0]
    assert len(np.unique(beginnings)) == len(beginnings)  # none is played twice


def test_an_agent_of_several_is_read_for_one_and_trained_on_only_side_by_side(tmp_path):
    file = tmp_path / "run.pt"
    agent = DQNAgent(several(AutoresetMode.DISABLED), SMALL, seed=0).train(checkpoint=file)
    one = DQNAgent.load(file, Known())
    for state in remembered(agent)["states"][:20]:
        np.testing.assert_array_equal(one.act(state), agent.act(state))
    assert one.learn(one.num_timesteps + 10).step == agent.step + 10
    states = remembered(one)["states"]
    beginnings = states[states[:, 1] == 0][:, 0]
    assert len(np.unique(beginnings)) == len(beginnings)  # none is played twice
    with pytest.raises(ValueError, match="3 environments side by side, this is one of 1"):
        DQNAgent(Known(), SMALL, seed=0).train(checkpoint=file)


@pytest.mark.slow
def test_processes_of_their_own_give_the_same():
    trained = [
        DQNAgent(env, SMALL, seed=0).learn(60)
        for kind in (SyncVectorEnv, AsyncVectorEnv)
        for env in [several(AutoresetMode.DISABLED, kind=kind)]
    ]
    trained[1].lanes._env.close()
    assert weights(trained[0]) == weights(trained[1])


@pytest.mark.parametrize("mode", MODES)
def test_choices_and_masks_are_kept_to(mode):
    def make():
        return MaskedObservation(gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"))

    config = replace(SMALL, pretrain_epochs=1, random_steps=40)
    agent = DQNAgent(several(mode, 2, make=make), config, seed=0).learn(120)
    rows = remembered(agent)
    assert (rows["actions"].sum(axis=1) == 1).all()
    for state, action in zip(rows["states"], rows["actions"], strict=True):
        assert not agent.env.action_space_block(state).violations(action)
    played = evaluate_parallel(several(mode, 2, make=make), agent, episodes=2)
    assert len(played) == 2


def test_parallel_episodes_of_a_known_model_are_learnt_from_by_expected_rewards():
    bandit = make_bandit("capacity", 4, 2, horizon=5, seed=1)
    config = replace(SMALL, random_steps=0, pretrain_states=10, pretrain_replay=0)  # played alone
    agent = DQNAgent(ParallelEpisodes(bandit, 4), config, seed=0).train()
    assert (agent.step, agent.episode) == (40, 8)
    rows = remembered(agent)
    played = len(rows["rewards"])
    assert played == 40
    expected = bandit.expected_reward(rows["states"], rows["actions"])
    np.testing.assert_allclose(rows["rewards"], expected, rtol=1e-6)


def test_environments_that_are_vectorised_inside_are_trained_on():
    inside = gym.make_vec("CartPole-v1", num_envs=3, max_episode_steps=20)
    assert type(inside.unwrapped).__name__ == "CartPoleVectorEnv"
    agent = DQNAgent(inside, SMALL, seed=0).train()
    rows = remembered(agent)
    assert len(rows["rewards"]) == agent.step
    assert (rows["rewards"] == 1).all()
    for s, a, after in zip(*(rows[k] for k in ("states", "actions", "next_states")), strict=True):
        pushed = after[1] - s[1] if a[1] else s[1] - after[1]
        assert pushed > 0.1  # to the right by the second action, and of one episode
        assert after[0] == pytest.approx(s[0] + 0.02 * s[1], abs=1e-5)
    again = DQNAgent(gym.make_vec("CartPole-v1", num_envs=3, max_episode_steps=20), SMALL, seed=0)
    assert weights(again.train()) == weights(agent)


def test_what_cannot_be_trained_on_is_refused_with_what_to_give():
    class Closed(gym.vector.VectorEnv):
        num_envs = 2  # and no spec

    with pytest.raises(ValueError, match="Closed does not show how its environments are made"):
        DQNAgent(Closed(), SMALL)

    class Halved(gym.vector.VectorObservationWrapper):
        def __init__(self, env) -> None:
            super().__init__(env)
            self.single_observation_space = spaces.Box(0, 5, (6,), np.float32)

        def observations(self, observations):
            return observations / 2

    with pytest.raises(ValueError, match="wrap these, rather than the vector environment"):
        DQNAgent(Halved(several(AutoresetMode.NEXT_STEP)), SMALL)
    made = Known()
    with pytest.raises(ValueError, match="one and the same Known: give functions that make a new"):
        DQNAgent(SyncVectorEnv([lambda: made] * 2), SMALL)
    vector = several(AutoresetMode.DISABLED)
    evaluation = EvaluationCallback(vector.envs[1], every=5, episodes=1)
    with pytest.raises(ValueError, match="eval_env is the environment that is trained on"):
        DQNAgent(vector, SMALL).learn(30, callbacks=[evaluation])
    with pytest.raises(ValueError, match="checkpoint_every"):
        DQNAgent(several(AutoresetMode.DISABLED), SMALL).train(checkpoint_every=0)


def test_a_number_that_is_not_finite_says_where_it_came_from():
    class Broken(Known):
        def step(self, action):
            observed, reward, *rest = super().step(action)
            return observed, np.nan if observed[1] == 3 else reward, *rest

    config = replace(SMALL, random_steps=0, pretrain_epochs=0, normalise=False)
    agent = DQNAgent(several(AutoresetMode.NEXT_STEP, make=Broken), config, seed=0)
    with pytest.raises(ValueError, match=r"the reward of step 2 of episode 0 is nan"):
        agent.train()
