"""What a learner refuses: spaces that do not fit, sets that change, numbers that are none."""

import warnings
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.baselines import IterativeDQNPolicy, MyopicPolicy, RandomPolicy
from milp_rl.dqn import DQNAgent, DQNConfig, FlatDQN, Validation
from milp_rl.dqn.pretraining import data_of_model
from milp_rl.envs import BudgetBandit, BudgetInstance, ParallelEpisodes
from milp_rl.envs.adaptation import adapted
from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.known_model import model_of
from milp_rl.envs.observed import Resolution, unresolved
from milp_rl.envs.transitions import collect_transitions
from milp_rl.evaluation import JointMDP, evaluate
from milp_rl.offline import OfflineConfig

PLAIN = DQNConfig(
    hidden=(8,), episodes=3, batch_size=4, pretrain_epochs=0, solver="enumeration", sync_every=10
)
PLAYED = replace(PLAIN, random_steps=40, pretrain_epochs=1)


class Machines(gym.Env[Any, Any]):
    """Four machines wear; at most two are repaired a step. No model."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (4,), np.float32)
        self.action_space: gym.Space[Any] = gym.spaces.MultiBinary(4)
        self.played: list[tuple[np.ndarray, np.ndarray]] = []

    def action_space_block(self, state):
        return mr.BudgetTopK(4, 2)  # built anew in every call

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.random(4).astype(np.float32), 0
        return self.x.copy(), {}

    def step(self, action):
        self.played.append((self.x.copy(), np.array(action)))
        self.x = np.maximum(self.x - 0.3 * self.np_random.random(4), 0).astype(np.float32)
        self.x[np.asarray(action, bool)] = 1
        self.t += 1
        return self.x.copy(), float((self.x > 0.3).sum()), False, self.t >= 6, {}


class ByState(Machines):
    """A machine like new is not repaired."""

    def action_space_block(self, state):
        upper = (np.asarray(state) < 0.9).astype(float)
        return mr.BudgetTopK(4, 2) & mr.Box(np.zeros(4), upper, binary=range(4))


class ByEpisode(Machines):
    """The budget of an episode is drawn when it begins."""

    def reset(self, *, seed=None, options=None):
        state, info = super().reset(seed=seed)
        self.k = int(self.np_random.integers(1, 4))
        return state, info

    def action_space_block(self, state):
        return mr.BudgetTopK(4, self.k)


class InPlace(Machines):
    """One block for ever, changed in the middle of the third episode."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.resets = mr.BudgetTopK(4, 2), 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def action_space_block(self, state):
        if self.resets == 3 and self.t == 2:
            self.block.k = 1
        return self.block


CHANGING = [ByState, ByEpisode, InPlace]
HIDDEN = [ByEpisode, InPlace]  # the state does not show what the set depends on


def never_infeasible(env):
    """Whether every action played was in the set of its state."""
    return all(not env.action_space_block(state).violations(a) for state, a in env.played)


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("config", [PLAIN, PLAYED])
def test_a_feasible_set_that_the_state_does_not_show_is_refused_with_what_changed(kind, config):
    with pytest.raises(ValueError, match=r"does not depend on the observed state alone: k is "):
        DQNAgent(kind(), config, seed=0).train()


def test_no_infeasible_action_is_played_before_the_refusal():
    env = ByState()
    with pytest.raises(ValueError, match=r"members\[1\].upper is .* in state .* and was"):
        FlatDQN(env, PLAYED, seed=0).train()
    assert env.played
    assert never_infeasible(env)


@pytest.mark.parametrize("config", [PLAIN, PLAYED])
def test_an_equal_set_built_in_every_call_is_trained_on(config):
    env = Machines()
    agent = DQNAgent(env, config, seed=0).train()
    assert len(agent.history) == 3
    assert never_infeasible(env)


def test_act_refuses_a_state_of_another_set_where_there_is_one_for_all():
    env = ByState()
    agent = FlatDQN(env, PLAIN, seed=0)
    first = env.reset(seed=0)[0]
    assert agent.act(first).shape == (4,)
    with pytest.raises(ValueError, match="not one for all states"):
        agent.act(1.0 - (first >= 0.9))


def test_a_learner_that_lists_its_actions_refuses_it():
    with pytest.raises(ValueError, match="FlatDQN keeps one set"):
        FlatDQN(ByState(), PLAYED, seed=0).train()


# Environments whose model is known -----------------------------------------------------------


class Reserved(BudgetBandit):
    """The first arm is not acted on while it is at the top."""

    def action_space_block(self, state=None):
        upper = np.ones(self.arms.n_arms)
        upper[0] = state[0] < 3
        return self.action_space.block & mr.Box(0 * upper, upper, binary=range(len(upper)))


class Smaller(BudgetBandit):
    """States another set than the one that ``step`` knows, but always the same."""

    def action_space_block(self, state):
        return mr.BudgetTopK(self.arms.n_arms, 1)


def bandit(kind, n_arms=4):
    return kind(BudgetInstance.generate(n_arms, 2, horizon=6, seed=0))


def test_pretraining_on_a_model_draws_from_the_set_of_each_state():
    env = bandit(Reserved)
    config = replace(PLAIN, pretrain_epochs=2, pretrain_states=20, pretrain_actions=4)
    sets = FeasibleSets(env, np.zeros(4), "The test")
    data = data_of_model(env, sets, config, np.random.default_rng(0))
    states, actions = data.replayed[:2]
    assert (states[:, 0] == 3).any()
    assert actions[states[:, 0] != 3, 0].any()
    assert not any(
        env.action_space_block(state).violations(action)
        for state, action in zip(states, actions, strict=True)
    )
    assert DQNAgent(env, config, seed=0).train().episode == 3
    assert DQNAgent(bandit(BudgetBandit), config, seed=0).train().episode == 3


def test_an_action_that_the_state_does_not_allow_is_refused_in_a_step():
    env = bandit(Reserved)
    first = np.array([1, 0, 0, 0], dtype=np.int8)
    env.reset(seed=0, options={"state": [0, 0, 0, 0]})
    env.step(first)
    env.reset(seed=0, options={"state": [3, 0, 0, 0]})
    with pytest.raises(ValueError, match=r"infeasible action: x\[0\] = 1"):
        env.step(first)


def test_parallel_episodes_draw_and_check_in_the_set_of_each_state():
    episodes = ParallelEpisodes(bandit(BudgetBandit), 3)
    episodes.reset(seed=0)
    episodes.step(np.zeros((3, 4), dtype=np.int8))
    episodes = ParallelEpisodes(bandit(Reserved), 3)
    starts = [[3, 0, 0, 0], [0, 0, 0, 0], [3, 3, 0, 0]]
    episodes.reset(seed=0, options={"state": starts})
    episodes.action_space.seed(0)
    drawn = np.array([episodes.action_space.sample() for _ in range(40)])
    assert drawn[:, :, 0].any(axis=0).tolist() == [False, True, False]
    first = np.tile([1, 0, 0, 0], (3, 1))
    assert first not in episodes.action_space
    with pytest.raises(ValueError, match="infeasible action in episode 0"):
        episodes.step(first)
    state, *_ = episodes.step(drawn[0])
    for _ in range(5):
        for row, block in zip(state, episodes.action_space.each, strict=True):
            assert block == episodes.env.action_space_block(row)
        state, *_ = episodes.step(episodes.action_space.sample())
    episodes = ParallelEpisodes(bandit(Smaller), 3)
    episodes.reset(seed=0)
    with pytest.raises(ValueError, match="infeasible action in episode 0"):
        episodes.step(np.tile([1, 1, 0, 0], (3, 1)))
    with pytest.raises(TypeError, match=r"got Machines; .*SyncVectorEnv"):
        ParallelEpisodes(Machines(), 3)


def test_the_exact_optimum_refuses_it_too():
    with pytest.raises(ValueError, match="JointMDP keeps one set"):
        JointMDP(bandit(Reserved, 3))


def test_validation_refuses_a_set_that_changes_or_does_not_hold_the_action(tmp_path):
    with pytest.raises(ValueError, match=r"policy 'of validation', episode 0|not one for all"):
        DQNAgent(Machines(), PLAIN).train([Validation(ByState(), tmp_path / "a", episodes=5)])
    config = replace(PLAIN, episodes=1)
    smaller = BudgetBandit(BudgetInstance.generate(4, 1, horizon=6, seed=0))
    with pytest.raises(ValueError, match="infeasible action in episode"):
        DQNAgent(bandit(BudgetBandit), config).train([Validation(smaller, tmp_path / "b")])


# Evaluation ----------------------------------------------------------------------------------


class OwnPolicy:
    def __init__(self, choose):
        self.act = choose


def test_evaluation_refuses_infeasible_actions_and_names_the_policy():
    env = ByState()
    with pytest.raises(ValueError, match=r"policy 'bad', episode 0: the action \[1, 1, 1, 0\] is"):
        evaluate(env, {"bad": OwnPolicy(lambda s: np.array([1, 1, 1, 0]))}, seeds=range(3))

    def repair_one(state):
        return np.eye(4, dtype=np.int8)[np.argmin(state)]

    results = evaluate(env, {"own": OwnPolicy(repair_one)}, seeds=range(3))
    assert len(results) == 3  # a policy that honours the set of each state may be evaluated


@pytest.mark.parametrize("kind", CHANGING)
def test_evaluation_refuses_policies_of_one_set_where_it_changes(kind):
    space = mr.BudgetTopK(4, 1)
    network = mr.QNetwork(4, 4, (4,))
    agent = DQNAgent(Machines(), PLAIN)
    policies = (RandomPolicy(space, seed=0), IterativeDQNPolicy(network, space), agent)
    for policy in policies:
        with pytest.raises(ValueError, match=r"is not one for all states|is not feasible"):
            evaluate(kind(), {"fixed": policy}, seeds=range(8))
    evaluate(Machines(), {"fixed": RandomPolicy(space, seed=0)}, seeds=range(3))


def test_myopic_looks_at_the_set_of_each_state():
    env = bandit(Reserved)
    policy = MyopicPolicy(env)
    for state in ([0, 0, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0], [3, 3, 0, 0]):
        space = env.action_space_block(np.array(state))
        rewards = env.expected_reward(np.array(state), space.enumerate())
        action = policy.act(np.array(state))
        assert not space.violations(action)
        assert env.expected_reward(np.array(state), action) == pytest.approx(rewards.max())


# Spaces and numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action_space", "message"),
    [
        (gym.spaces.MultiBinary(6), r"has 4 actions, the action space MultiBinary\(6\)"),
        (gym.spaces.MultiBinary((2, 3)), r"has 4 variables, .* MultiBinary\(\(2, 3\)\) have 6"),
        (gym.spaces.Discrete(5), r"has 4 variables, the actions Discrete\(5\) have 5"),
        (gym.spaces.MultiDiscrete([3] * 3), r"has 4 variables, the actions MultiDiscrete.* have 9"),
        (gym.spaces.Text(3), r"actions of Text.* have no vectors"),
        (gym.spaces.Box(0, 0.5, (4,)), r"variable 0 of .* is in \[0, 1\], .* allows \[0, 0.5\]"),
    ],
)
def test_action_spaces_that_do_not_fit_are_refused(action_space, message):
    env = Machines()
    env.action_space = action_space
    with pytest.raises(ValueError, match=message):
        DQNAgent(env, PLAIN)


def test_whole_numbers_are_those_of_a_multi_discrete_space():
    env = Machines()
    env.action_space_block = lambda state: mr.Box([0] * 4, [2, 1, 3, 3], integer=range(4))
    env.action_space = gym.spaces.MultiDiscrete([3, 2, 4, 3])
    with pytest.raises(ValueError, match=r"variable 3 .* is in \[0, 3\], .* allows \[0, 2\]"):
        DQNAgent(env, PLAIN)
    env.action_space = gym.spaces.MultiDiscrete([3, 2, 4, 4])
    assert DQNAgent(env, PLAIN).space.integer.tolist() == [True, False, True, True]
    env.action_space = gym.spaces.MultiBinary(4)
    with pytest.raises(ValueError, match="3 integer variables, which the action space MultiBin"):
        DQNAgent(env, PLAIN)


def test_continuous_variables_need_a_box_that_holds_them():
    env = Machines()
    env.action_space_block = lambda state: mr.Box(-np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="4 continuous variables"):
        DQNAgent(env, PLAIN)
    env.action_space = gym.spaces.Box(-0.7, 0.7, (4,))
    with pytest.raises(ValueError, match=r"variable 0 .* allows \[-0.7, 0.7\]"):
        DQNAgent(env, PLAIN)
    env.action_space_block = lambda state: mr.Box(np.full(4, -0.7), np.full(4, 0.7))
    DQNAgent(env, replace(PLAIN, solver="auto"))  # 0.7 is a little more than float32's


def test_other_things_than_an_environment_with_a_set_are_refused():
    env = Machines()
    env.action_space_block = lambda state: [0, 1]
    with pytest.raises(ValueError, match=r"must return an action space, .* got list"):
        DQNAgent(env, PLAIN)
    with pytest.raises(ValueError, match="the vector environment SyncVectorEnv of 2"):
        adapted(gym.vector.SyncVectorEnv([Machines, Machines]))
    env = Machines()
    env.observation_space = gym.spaces.Sequence(env.observation_space)
    with pytest.raises(ValueError, match=r"observations of Sequence.* have no vectors"):
        DQNAgent(env, PLAIN)


def faulty(**faults):
    """An environment that gives something wrong at its 10th step."""

    class Faulty(Machines):
        def step(self, action):
            observed, reward, *rest = super().step(action)
            if len(self.played) >= 10:
                observed = faults.get("observation", lambda x: x)(observed)
                reward = faults.get("reward", reward)
            return observed, reward, *rest

    return Faulty()


def with_nan(x):
    return np.where(np.arange(4) == 2, np.nan, x)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"reward": np.nan}, "reward of step 3 of episode 1 is nan"),
        ({"reward": -np.inf}, "reward of step 3 of episode 1 is -inf"),
        ({"reward": 1e39}, r"is 1e\+39; .* float32"),
        ({"reward": np.zeros(2)}, r"reward of step 3 .* has shape \(2,\)"),
        ({"observation": with_nan}, "after step 3 of episode 1 has the value nan at index 2"),
        ({"observation": lambda x: x.astype(float) + 1e39}, r"has the value 1e\+39 at index 0"),
        ({"observation": lambda x: x[:3]}, r"has shape \(3,\), the observation space \(4,\)"),
    ],
)
def test_numbers_that_are_none_are_refused_at_the_step(faults, message):
    with pytest.raises(ValueError, match=message):
        DQNAgent(faulty(**faults), PLAIN, seed=0).train()


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"reward": np.nan}, "the reward of random step 9 is nan"),
        ({"observation": with_nan}, "observation after random step 9 has the value nan at index 2"),
        ({"reward": 5e37}, r"the reward of random step 9 is 5e\+37; .* of at most 1e\+30"),
    ],
)
def test_numbers_that_are_none_are_refused_in_random_play(faults, message):
    with pytest.raises(ValueError, match=message):
        DQNAgent(faulty(**faults), PLAYED, seed=0).train()


def test_rewards_that_are_none_are_refused_in_evaluation():
    space = mr.BudgetTopK(4, 2)
    with pytest.raises(ValueError, match="policy 'r', episode 1: the reward of step 3 is nan"):
        evaluate(faulty(reward=np.nan), {"r": RandomPolicy(space, seed=0)}, seeds=range(3))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("expected_reward", "expected_reward of the environment gives nan for state"),
        ("sample_next", "sample_next of the environment gives .* for state .* and action"),
        ("informative_states", "informative_states of the environment gives"),
    ],
)
def test_a_model_that_gives_no_numbers_is_refused(method, message):
    env = bandit(BudgetBandit)
    original = getattr(env, method)

    def broken(*arguments):
        rows = np.array(original(*arguments), dtype=np.float32)
        rows.flat[-1] = np.nan
        return rows

    setattr(env, method, broken)
    config = replace(PLAIN, pretrain_epochs=2, pretrain_states=20, pretrain_actions=2)
    with pytest.raises(ValueError, match=message):
        DQNAgent(env, config, seed=0).train()


class Doubled(gym.Wrapper):
    def step(self, action):
        state, reward, *rest = self.env.step(action)
        return state, 2.0 * reward, *rest


def test_a_model_is_not_asked_for_what_a_wrapper_changes():
    def bandit():
        return BudgetBandit(BudgetInstance.generate(4, 2, horizon=6, seed=0))

    checked = gym.wrappers.OrderEnforcing(bandit())
    assert DQNAgent(checked, replace(PLAIN, pretrain_epochs=1)).random_steps == 0
    scaled = gym.wrappers.TransformReward(bandit(), lambda reward: 64.0 * reward)
    shifted = gym.wrappers.TransformObservation(
        bandit(), lambda state: state + 10.0, gym.spaces.Box(10.0, 12.0, (4,), np.float32)
    )
    agents = [DQNAgent(env, PLAYED, seed=0) for env in (bandit(), scaled, shifted)]
    plain, large, moved = (agent.pretraining_data() for agent in agents)
    assert not np.allclose(plain.rewards, np.rint(plain.rewards))  # expected ones
    drawn = large.rewards / 64.0
    np.testing.assert_array_equal(drawn, moved.rewards)  # sampled ones, of the same play
    np.testing.assert_array_equal(plain.states + 10.0, moved.states)
    assert DQNAgent(scaled, replace(PLAIN, pretrain_epochs=1)).random_steps == 1000
    stacked = gym.wrappers.FrameStackObservation(bandit(), 2)
    assert model_of(stacked) is stacked
    doubled = DQNAgent(Doubled(bandit()), PLAYED, seed=0).pretraining_data()
    np.testing.assert_array_equal(doubled.rewards / 2.0, drawn)
    results = evaluate(scaled, {"": RandomPolicy(mr.BudgetTopK(4, 2), seed=0)}, seeds=[0])
    own = evaluate(bandit(), {"": RandomPolicy(mr.BudgetTopK(4, 2), seed=0)}, seeds=[0])
    assert results["reward"][0] / 64.0 != pytest.approx(own["reward"][0])
    assert results["reward"][0] / 64.0 == pytest.approx(own["reward"][0], abs=2.0)


@pytest.mark.parametrize("shape", [(1,), (2,)])
def test_rewards_of_one_number_are_taken_in_random_play_as_in_episodes(shape):
    class Boxed(Machines):
        def step(self, action):
            state, reward, *rest = super().step(action)
            return state, np.full(shape, reward), *rest

    agent = DQNAgent(Boxed(), PLAYED, seed=0)
    if shape == (1,):
        plain = DQNAgent(Machines(), PLAYED, seed=0)
        np.testing.assert_array_equal(agent.random_play.rewards, plain.random_play.rewards)
        agent.train()
    else:
        with pytest.raises(ValueError, match=r"has shape \(2,\), it must be one number"):
            agent.train()


class Stuck(Machines):
    """Two of the machines that are not worn out are to be repaired, and there may be none."""

    def action_space_block(self, state):
        upper = (np.asarray(state) > 0.8).astype(float)
        return mr.BudgetTopK(4, 2, exactly=True) & mr.Box(np.zeros(4), upper, binary=range(4))


@pytest.mark.parametrize("random_steps", [0, 40])
def test_a_state_without_any_action_is_named(random_steps):
    config = replace(PLAIN, random_steps=random_steps, epsilon_start=1.0, epsilon_end=1.0)
    with pytest.raises(ValueError, match=r"no action can be drawn in state \[.*allow something"):
        DQNAgent(Stuck(), config, seed=0).train()


def test_a_buffer_that_never_holds_a_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size=64 transitions are more than the buffer_size"):
        DQNAgent(Machines(), replace(PLAYED, batch_size=64, buffer_size=50))
    DQNAgent(Machines(), replace(PLAYED, batch_size=50, buffer_size=50))


class Careless(Machines):
    """It works off the array of the action that it is given."""

    def step(self, action):
        after = super().step(action)
        action[:] = 0
        return after


@pytest.mark.parametrize("config", [PLAIN, PLAYED])
def test_an_environment_may_change_the_action_that_it_is_given(config):
    env = Careless()
    replay = DQNAgent(env, config, seed=0).train().learner.replay
    played = np.array([action for _, action in env.played])[-len(replay) :]
    remembered = replay._data["actions"][: len(replay)]
    np.testing.assert_array_equal(remembered[-18:], played[-18:])
    assert remembered.any()


def test_random_play_keeps_the_actions_that_were_chosen():
    env = Careless()
    played = collect_transitions(env, 30, np.random.default_rng(0))
    np.testing.assert_array_equal(played.actions, [action for _, action in env.played])


def wrappers():
    yield gym.wrappers.RescaleObservation(ByState(), np.float32(-1), np.float32(1))
    yield gym.wrappers.NormalizeObservation(ByState())
    yield gym.wrappers.TransformReward(
        gym.wrappers.NormalizeObservation(gym.wrappers.TimeLimit(ByState(), 5)), lambda r: r
    )


@pytest.mark.parametrize("env", wrappers())
@pytest.mark.parametrize("config", [PLAIN, PLAYED])
def test_a_set_is_not_asked_with_observations_that_a_wrapper_has_changed(env, config):
    with pytest.raises(ValueError, match="action_space_block of ByState depends on the observ"):
        DQNAgent(env, config, seed=0).train()


def test_a_set_that_knows_the_changed_observations_is_asked():
    class Undone(gym.Wrapper[Any, Any, Any, Any]):
        def action_space_block(self, state):
            return self.unwrapped.action_space_block((np.asarray(state) + 1.0) / 2.0)

    inner = gym.wrappers.RescaleObservation(ByState(), np.float32(-1), np.float32(1))
    DQNAgent(Undone(inner), PLAYED, seed=0).train()
    DQNAgent(inner, PLAYED, seed=0, space=Undone(inner).action_space_block).train()
    # Nor does one set for all states mind, nor rewards that are changed.
    DQNAgent(gym.wrappers.NormalizeObservation(Machines()), PLAYED, seed=0).train()
    DQNAgent(gym.wrappers.NormalizeReward(ByState()), PLAYED, seed=0).train()
    same = gym.wrappers.FlattenObservation(gym.wrappers.DtypeObservation(ByState(), np.float64))
    DQNAgent(same, PLAYED, seed=0).train()


class FirstFour(ByState):
    def action_space_block(self, state):
        return super().action_space_block(np.asarray(state)[:4])


def test_a_set_may_know_what_a_wrapper_adds(recwarn):
    DQNAgent(
        gym.wrappers.TimeAwareObservation(gym.wrappers.TimeLimit(FirstFour(), 6)), PLAYED, seed=0
    ).train()
    assert not any("action_space_block" in str(warning.message) for warning in recwarn)
    turned = gym.wrappers.TransformObservation(FirstFour(), lambda x: x[::-1], None)
    with pytest.warns(UserWarning, match="asked with what TransformObservation makes of it"):
        DQNAgent(turned, PLAYED, seed=0).train()


class Ending(BudgetBandit):
    """Ends in the third step, of which its model says nothing."""

    def step(self, action):
        state, reward, _, truncated, info = super().step(action)
        return state, reward, self._steps >= 3, truncated, info


def test_an_end_that_the_model_does_not_know_is_refused():
    env = Ending(BudgetInstance.generate(4, 2, seed=0))
    fitted = replace(PLAIN, pretrain_epochs=1)
    with pytest.raises(ValueError, match=r"step 2 of episode 0 has terminated, which the .* model"):
        DQNAgent(env, fitted, seed=0).train()
    DQNAgent(env, replace(fitted, random_steps=20), seed=0).train()
    DQNAgent(env, PLAIN, seed=0).train()
    # Where no transition of the model is learnt from, it need not know.
    DQNAgent(env, replace(fitted, pretrain_replay=0), seed=0).train()
    logged = collect_transitions(env, 20, np.random.default_rng(0))
    agent = DQNAgent(env, fitted, seed=0)
    agent.fit(logged, OfflineConfig(method="dqn", updates=2))
    agent.train()


class Clock(gym.Env[Any, Any]):
    """Shows the time in seconds since 1970, as a vector or among other things."""

    def __init__(self, named: bool, start: float) -> None:
        time = gym.spaces.Box(0, np.inf, (1,), np.float64)
        self.observation_space: Any = gym.spaces.Dict({"time": time}) if named else time
        self.action_space = gym.spaces.MultiBinary(2)
        self.named, self.start = named, start

    def action_space_block(self, state):
        return mr.BudgetTopK(2, 1)

    def _seen(self):
        time = np.array([self.start + self.t])
        return {"time": time} if self.named else time

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        return self._seen(), float(action[0]), False, self.t >= 20, {}


@pytest.mark.parametrize("named", [False, True])
def test_observations_that_float32_does_not_tell_apart_are_warned_of(named, recwarn):
    config = replace(PLAYED, random_steps=600, pretrain_epochs=1, episodes=1)
    DQNAgent(Clock(named, 1e6), config, seed=0).train()
    assert not any("float32" in str(warning.message) for warning in recwarn)
    with pytest.warns(UserWarning, match="between 1700000000 and 17000000"):
        DQNAgent(Clock(named, 1.7e9), config, seed=0).train()


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 + 0.1, 5.0, "a sum"])
def test_features_that_are_one_number_are_told_apart(constant):
    rng = np.random.default_rng(0)
    states = rng.random((1000, 2))
    sums = rng.dirichlet(np.ones(7), 1000).sum(axis=1)
    states[:, 1] = sums if constant == "a sum" else constant
    assert unresolved(states, "the states", 0.01) == ""
    looking = Resolution(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [looking.look(state) for state in states[:500]] == [False] * 499 + [True]
    states[:, 1] = 1.7e9 + (rng.random(1000) < 0.5)
    assert "feature 1 of the states is between 1700000000 and" in unresolved(states, "the states")


def test_rewards_that_are_one_number_are_not_warned_of(recwarn):
    env = gym.wrappers.TransformReward(Machines(), lambda reward: -0.1)
    DQNAgent(env, PLAYED, seed=0).train()
    assert not any("subtract it" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize(("level", "warns"), [(0.0, False), (100.0, False), (1e5, True)])
def test_rewards_that_hardly_differ_beside_their_level_are_warned_of(level, warns, recwarn):
    env = gym.wrappers.TransformReward(Machines(), lambda reward: reward + level)
    DQNAgent(env, PLAYED, seed=0).train()
    assert any("subtract it" in str(warning.message) for warning in recwarn) == warns
