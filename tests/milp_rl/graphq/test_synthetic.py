import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import milp_rl.graphq
from milp_rl.baselines import IterativeMyopicPolicy, MyopicPolicy
from milp_rl.envs import ParallelEpisodes
from milp_rl.graphq import (
    PRESETS,
    InterventionsInstance,
    SyntheticInterventions,
    make_interventions,
)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_gymnasium_environments(preset):
    env = make_interventions(preset, seed=0)
    check_env(env, skip_render_check=True)
    same = make_interventions(preset, seed=0)
    assert same.instance.to_dict() == env.instance.to_dict()
    assert make_interventions(preset, seed=1).instance.to_dict() != env.instance.to_dict()


def test_sizes_run_from_5_to_200_interventions():
    sizes = {PRESETS[name](seed=0).block.n_actions for name in PRESETS}
    assert min(sizes) == 5
    assert max(sizes) == 200


def test_registered_with_gymnasium():
    env = gym.make("milp_rl/SyntheticInterventions-v0")
    state, _ = env.reset(seed=0)
    assert state.shape == (10,)


def test_instances_survive_json(tmp_path):
    instance = PRESETS["clinical"](seed=3)
    instance.to_json(tmp_path / "instance.json")
    assert InterventionsInstance.from_json(tmp_path / "instance.json").to_dict() == (
        instance.to_dict()
    )
    with pytest.raises(ValueError, match="block is missing"):
        InterventionsInstance.from_dict({"effects": [[1.0]]})


@pytest.mark.parametrize("preset", ["8x8", "10x10 seasonal", "clinical"])
def test_means_of_samples_are_the_expected_ones(preset):
    env = make_interventions(preset, seed=0)
    rng = np.random.default_rng(0)
    state, action = env.start_states(rng, 1)[0], env.action_space_block().sample(rng)[0]
    states, rewards = env.transition(state, action, rng.random((200_000, env.luck_dim)))
    m = len(env.instance.variables)
    np.testing.assert_allclose(states.mean(axis=0)[:m], env.expected_next(state, action), atol=2e-3)
    assert rewards.mean() == pytest.approx(env.expected_reward(state, action), abs=5e-3)
    assert states.min() >= 0
    assert states.max() <= 1


def test_the_model_by_hand():
    instance = InterventionsInstance(
        effects=[[1.0, 0.0], [0.0, -0.5]],
        pairs=[[0, 1]],
        pair_effects=[[0.7], [0.0]],
        influences=[[0.5, 0.2], [-0.3, 0.4]],
        base=[0.1, 0.2],
        weights=[2.0, 1.0],
        costs=[0.1, 0.3],
        noise=0.2,
        relapse=0.1,
        period=0,
        horizon=5,
        block=milp_rl.BudgetTopK(2, 2),
        interventions=("a", "b"),
        variables=("x", "y"),
    )
    env = SyntheticInterventions(instance)
    x, y = 0.6, 0.5
    alone = 0.5 * x + 0.2 * y + 0.3 * 0.1, 0.3 * (1 - x) + 0.4 * y + 0.3 * 0.2
    up, down = np.tanh(1.7), np.tanh(0.5)
    wanted = 0.9 * np.array([alone[0] + up * (1 - alone[0]), alone[1] - down * alone[1]])
    np.testing.assert_allclose(env.expected_next([x, y], [1, 1]), wanted)
    reward = 2 * wanted[0] + wanted[1] - 0.4
    assert env.expected_reward([x, y], [1, 1]) == pytest.approx(reward)
    assert instance.graph().edges == {("a", "x"), ("b", "x"), ("b", "y"), ("y", "x"), ("x", "y")}


@pytest.mark.parametrize("preset", ["5x5", "10x10 seasonal", "clinical"])
def test_one_step_network_is_the_expected_reward(preset):
    env = make_interventions(preset, seed=1)
    rng = np.random.default_rng(0)
    actions = env.action_space_block().sample(rng, 200)
    for state in env.informative_states(rng, 3):
        values = env.one_step_network(state).forward(actions.astype(float))[:, 0]
        error = np.abs(values - env.expected_reward(state, actions)).max()
        assert error <= env.one_step_error + 1e-9
    assert env.one_step_error < 1e-3


def test_the_myopic_policy_is_the_best_of_one_step():
    env = make_interventions("8x8", seed=0)
    actions = env.action_space_block().enumerate()
    for state in env.start_states(np.random.default_rng(0), 5):
        best = env.expected_reward(state, actions).max()
        chosen = env.expected_reward(state, MyopicPolicy(env).act(state))
        assert chosen >= best - 2 * env.one_step_error
        assert env.expected_reward(state, IterativeMyopicPolicy(env).act(state)) <= best + 1e-9


def test_the_clock_turns():
    env = make_interventions("10x10 seasonal", seed=0)
    state, _ = env.reset(seed=0)
    states = [state]
    for _ in range(env.instance.period):
        state, *_ = env.step(np.zeros(10, dtype=np.int8))
        states.append(state)
    np.testing.assert_allclose(states[0][-2:], states[-1][-2:], atol=1e-5)
    assert np.ptp([s[-1] for s in states]) > 0.9


def test_parallel_episodes_are_the_environments_own():
    env = make_interventions("10x10", seed=0)
    parallel = ParallelEpisodes(env, 3)
    states, _ = parallel.reset(seed=5)
    actions = env.action_space_block().sample(np.random.default_rng(0), 3)
    moved, rewards, *_ = parallel.step(actions)
    for i in range(3):
        state, _ = env.reset(seed=5 + i)
        np.testing.assert_array_equal(state, states[i])
        next_state, reward, *_ = env.step(actions[i])
        np.testing.assert_array_equal(next_state, moved[i])
        assert reward == pytest.approx(rewards[i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relapse": 1.0}, "relapse must be in"),
        ({"noise": 2.0}, "noise must be in"),
        ({"pairs": [[0, 0]]}, "two different interventions"),
        ({"influences": np.full((10, 10), 0.2)}, "sum to at most 1"),
        ({"interventions": ("a",) * 10}, "distinct names"),
        ({"base": np.full(10, np.nan)}, "base must lie between"),
        ({"block": milp_rl.BudgetTopK(3, 1)}, "3 actions for 10 interventions"),
    ],
)
def test_wrong_instances_are_refused(change, message):
    instance = PRESETS["10x10"](seed=0)
    fields = {name: getattr(instance, name) for name in instance.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        InterventionsInstance(**{**fields, **change})


def test_wrong_states_actions_and_names_are_refused():
    env = make_interventions("5x5", seed=0)
    with pytest.raises(ValueError, match=r"variables lie in \[0, 1\]"):
        env.expected_reward(np.full(5, 2.0), np.zeros(5))
    with pytest.raises(ValueError, match="an action has shape"):
        env.expected_reward(np.zeros(5), np.zeros(4))
    with pytest.raises(ValueError, match="unknown preset"):
        make_interventions("6x6", seed=0)
