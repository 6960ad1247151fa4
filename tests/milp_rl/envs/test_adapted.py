from __future__ import annotations

import doctest
import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector.utils import concatenate, create_empty_array

import milp_rl as mr
import milp_rl.envs.adaptation
import milp_rl.envs.rddl
from milp_rl.baselines.actor_critic import ActorCritic, ActorCriticConfig
from milp_rl.dqn import DQNAgent, DQNConfig, EvaluationCallback, FlatDQN
from milp_rl.envs import MaskedObservation, adapted
from milp_rl.envs.action_codes import action_code
from milp_rl.envs.transitions import collect_transitions
from milp_rl.evaluation import evaluate

SMALL = DQNConfig(
    hidden=(8,),
    encoder=(8,),
    head=(8,),
    episodes=3,
    batch_size=4,
    pretrain_epochs=1,
    random_steps=20,
    solver="enumeration",
    sync_every=10,
)
SPACES = [
    (spaces.Discrete(5, start=-2), 5),
    (spaces.MultiBinary((2, 2)), 16),
    (spaces.MultiDiscrete([3, 2, 4]), 24),
    (spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[5, 0], [0, 1]]), 12),
    (spaces.Box(-1, 2, (2,), np.int64), 16),
    (spaces.Dict({"b": spaces.Discrete(3), "a": spaces.MultiBinary(2)}), 12),
    (spaces.Tuple([spaces.Discrete(2), spaces.Dict(c=spaces.MultiDiscrete([2, 2]))]), 8),
]


@pytest.mark.parametrize(("space", "count"), SPACES, ids=lambda value: str(value)[:20])
def test_vectors_are_actions_and_actions_are_vectors(space, count):
    code = action_code(space)
    vectors = code.space.enumerate()
    assert len(vectors) == count
    actions = [code.decode(vector) for vector in vectors]
    assert all(space.contains(action) for action in actions)
    assert len({str(action) for action in actions}) == count
    for vector, action in zip(vectors, actions, strict=True):
        np.testing.assert_array_equal(code.encode(action), vector)
    space.seed(0)
    for _ in range(20):
        vector = code.encode(space.sample())
        assert not code.space.violations(vector)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Pendulum-v1", "Blackjack-v1", "CartPole-v1"])
def test_what_is_adapted_is_a_gymnasium_environment(name):
    env = gym.make(name)
    vectors = adapted(env)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(vectors, skip_render_check=True)
    assert adapted(vectors) is vectors
    state, _ = vectors.reset(seed=3)
    observation, _ = env.reset(seed=3)
    np.testing.assert_array_equal(state, vectors.vector(observation))
    if vectors.action_space_block(state).binary:
        with pytest.raises(ValueError, match="exactly one of variables 0 to"):
            vectors.step(np.zeros(vectors.action_space.shape))


class Stock(gym.Env):
    """Orders of two goods and a price, by what is there; some orders are not taken."""

    def __init__(self, observation_space=None, action_space=None) -> None:
        self.observation_space = observation_space or spaces.Dict(
            {
                "stock": spaces.Box(0, 9, (2, 1), np.int64),
                "season": spaces.Discrete(3),
                "open": spaces.MultiBinary(2),
            }
        )
        self.action_space = action_space or spaces.MultiDiscrete([3, 3, 2])

    def observe(self):
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t, self.seen = 0, self.observe()
        return self.seen, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.check(action)
        self.t, self.seen = self.t + 1, self.observe()
        return self.seen, float(np.sum(np.ravel(action))), False, self.t >= 6, {}

    def check(self, action):
        pass


class Limited(Stock):
    """What is closed cannot be ordered."""

    def action_space_block(self, observation):
        assert self.observation_space.contains(observation)
        upper = np.ones(8)
        for good in range(2):
            upper[3 * good + 1 : 3 * good + 3] = observation["open"][good]
        return mr.Box(np.zeros(8), upper, binary=range(8))

    def check(self, action):
        assert not np.any((action[:2] > 0) & (self.seen["open"] == 0))


def test_it_acts_by_the_best_of_all_actions():
    env = Limited()
    agent = DQNAgent(env, SMALL, seed=0).train()
    assert (agent.state_dim, agent.space.n_actions) == (7, 8)
    vectors = adapted(env)
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        allowed = [
            np.array(action)
            for action in itertools.product(range(3), range(3), range(2))
            if not np.any((np.array(action[:2]) > 0) & (observation["open"] == 0))
        ]
        state = vectors.vector(observation)
        np.testing.assert_array_equal(state, vectors.vector(vectors.observation(state)))
        codes = np.array([vectors.action_vector(action) for action in allowed])
        values = agent.network.q(
            torch.from_numpy(np.tile(state, (len(codes), 1))), torch.from_numpy(codes)
        )
        best = int(values.argmax())
        action = agent.act(observation)
        np.testing.assert_array_equal(action, allowed[best])
        assert env.action_space.contains(action)
        assert not agent.action_space_block(observation).violations(codes[best])
        np.testing.assert_array_equal(agent.predict([observation] * 2)[0], [action] * 2)


@pytest.mark.parametrize(
    ("space", "one"),
    [
        (spaces.MultiBinary(3), [1, 0, 1]),
        (spaces.Dict(b=spaces.Discrete(2), a=spaces.Box(0, 1, (2,))), {"a": [0.5, 0.0], "b": 1}),
        (spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.Discrete(2)]), (np.array([0.5, 7.0]), 1)),
    ],
)
def test_an_observation_is_one_whatever_its_numbers_are_kept_in(space, one):
    env = gym.Env()
    env.observation_space, env.action_space = space, spaces.MultiBinary(2)
    env.reset = lambda **_: (one, {})
    vectors = adapted(env, mr.BudgetTopK(2, 1))
    assert vectors.one_by_one(one) is None
    assert vectors.one_by_one([one, one]) == [one, one]
    batch = space.sample(), space.sample(), space.sample()
    several = create_empty_array(space, 3)
    for own, given in zip(
        vectors.one_by_one(concatenate(space, batch, several)), batch, strict=True
    ):
        np.testing.assert_array_equal(vectors.vector(own), vectors.vector(given))


def test_whole_numbers_are_rounded_to_not_cut_off():
    both = spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 9, (1,), np.int64)])
    bits, (number,) = action_code(both).decode(np.array([1.0 - 1e-9, 1e-9, 3.0 - 1e-9]))
    assert (bits.tolist(), number) == ([1, 0], 3)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    class KilledError(Exception):
        pass

    class Kill(mr.dqn.Callback):
        def on_step(self, agent):
            if agent.step == 9:
                raise KilledError

    whole = DQNAgent(Limited(), SMALL, seed=0).train()
    file = tmp_path / "run.pt"
    with pytest.raises(KilledError):
        DQNAgent(Limited(), SMALL, seed=0).train([Kill()], checkpoint=file, checkpoint_every=4)
    resumed = DQNAgent(Limited(), SMALL, seed=0).train(checkpoint=file)
    for one, other in zip(
        whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True
    ):
        assert (one == other).all()
    loaded = DQNAgent.load(file, Limited())
    observation, _ = Limited().reset(seed=3)
    np.testing.assert_array_equal(loaded.act(observation), whole.act(observation))


class Masked(Stock):
    """A walk whose allowed steps only `info` shows."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(7), spaces.Discrete(4))

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, self.info()

    def step(self, action):
        observation, reward, *ends, _ = super().step(action)
        return observation, reward, *ends, self.info()

    def info(self):
        self.mask = np.ones(4, dtype=np.int8)
        self.mask[self.np_random.permutation(4)[:2]] = 0
        return {"action_mask": self.mask}

    def check(self, action):
        assert self.mask[action]


def test_masks_are_kept_to_in_play_and_in_what_is_remembered():
    env = MaskedObservation(Masked())
    agent = DQNAgent(env, SMALL, seed=0).train()
    states = agent.learner.replay.state_dict()
    assert agent.state_dim == 11
    observation, _ = env.reset(seed=5)
    assert observation["action_mask"][agent.act(observation)]
    assert {agent.space.n_actions, agent.action_space_block(observation).count()} == {4, 2}
    assert states
    with pytest.raises(ValueError, match="MaskedObservation"):
        DQNAgent(Masked(), SMALL)


def test_a_set_that_is_given():
    orders = mr.Box([0] * 3, [2, 2, 1], matrix=[[1, 1, 0]], right=[2], integer=range(3))
    env = Stock()
    agent = DQNAgent(env, SMALL, space=orders, seed=0).train()
    assert agent.space == orders  # a variable for each entry: integers instead of choices
    observation, _ = env.reset(seed=0)
    action = agent.act(observation)
    assert action.dtype == env.action_space.dtype
    assert action[:2].sum() <= 2

    def by_season(observation):
        upper = np.ones(8)
        upper[observation["season"]] = 0
        return mr.Box(np.zeros(8), upper, binary=range(8))

    agent = DQNAgent(env, SMALL, space=by_season, seed=0).train()
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        assert agent.act(observation)[0] != observation["season"]
    agent = DQNAgent(env, SMALL, space=mr.BudgetTopK(8, 5), seed=0)
    assert agent.space.count() == 18  # one-hot, whatever the set says
    vectors = Stock(spaces.Box(0, 1, (3,), np.float32), spaces.MultiBinary(4))
    agent = DQNAgent(vectors, SMALL, space=mr.BudgetTopK(4, 1), seed=0)
    assert agent.act(np.zeros(3)).sum() <= 1
    assert DQNAgent(vectors, SMALL, seed=0).space == mr.BudgetTopK(4, 4)  # all


def test_standard_dqn_and_evaluation_take_them_too():
    env = Stock(spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2,))]), spaces.Discrete(4))
    evaluation = EvaluationCallback(Stock(env.observation_space, env.action_space), every=5)
    agent = FlatDQN(env, SMALL, seed=0).train([evaluation])
    assert len(evaluation.rows) >= 3
    results = evaluate(env, {"learnt": agent, "largest": Constant(3)}, seeds=range(2))
    assert results.groupby("policy")["reward"].mean()["largest"] == 3
    with pytest.raises(ValueError, match="not feasible"):
        evaluate(Limited(), {"all": Constant(np.array([2, 2, 1]))}, seeds=range(4))


@pytest.mark.parametrize("module", [milp_rl.envs.adaptation, milp_rl.envs.rddl])
def test_examples_give_what_they_show(module, capsys):
    failed, _ = doctest.testmod(module)
    assert not failed, capsys.readouterr().out


class Constant:
    """The same action always."""

    def __init__(self, action) -> None:
        self.action = action

    def act(self, observation):
        return self.action


class Counting(gym.Env):
    """Counts its steps; returns one array that it changes in place, or a new one each time."""

    observation_space = spaces.Box(0, 100, (2,), np.float32)
    action_space = spaces.MultiBinary(3)

    def __init__(self, in_place):
        self.in_place, self.array = in_place, np.zeros(2, np.float32)

    def action_space_block(self, state):
        return mr.BudgetTopK(3, 2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.array = self.array if self.in_place else np.zeros(2, np.float32)
        self.array[:] = [0, self.np_random.integers(10)]
        return self.array, {}

    def step(self, action):
        self.array = self.array if self.in_place else self.array.copy()
        self.array[0] += 1
        return self.array, float(np.sum(action)), bool(self.array[0] >= 6), False, {}


@pytest.mark.parametrize("kind", ["as it is", "adapted", "of parts"])
def test_observations_in_one_array_are_remembered_as_they_were(kind):
    agents = []
    for in_place in (False, True):
        env = Counting(in_place)
        played = collect_transitions(env, 14, np.random.default_rng(0))
        np.testing.assert_array_equal(played.states[:6, 0], range(6))
        np.testing.assert_array_equal(played.next_states[:6, 0], range(1, 7))
        if kind == "of parts":
            env = gym.wrappers.TransformObservation(
                env, lambda o: {"o": o}, spaces.Dict({"o": env.observation_space})
            )
        space = mr.BudgetTopK(3, 2) if kind == "adapted" else None
        agents.append(DQNAgent(env, SMALL, space=space, seed=0).train())
    weights = [agent.network.state_dict() for agent in agents]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("reward", [np.nan, 1e300, None, "1"])
def test_a_reward_that_is_none_is_refused_in_random_play_too(reward):
    class Paid(Counting):
        def step(self, action):
            return *super().step(action)[:1], reward, False, False, {}

    with pytest.raises(ValueError, match="the reward of random step 0 is"):
        collect_transitions(Paid(False), 4, np.random.default_rng(0))


class Masking(gym.Env):
    """Gives a mask in info while it goes on, and what it is told in the last state."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, last, truncated):
        self.last, self.truncated, self.steps = last, truncated, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {"action_mask": [1, 1, 0]}

    def step(self, action):
        self.steps += 1
        ends = self.steps == 3
        info = ({} if self.last is None else {"action_mask": self.last}) if ends else None
        info = {"action_mask": [1, 0, 1]} if info is None else info
        terminated, truncated = ends and not self.truncated, ends and self.truncated
        return np.full(2, self.steps / 9, np.float32), 1.0, terminated, truncated, info


@pytest.mark.parametrize("last", [None, [0, 0, 0]])
def test_no_mask_is_needed_where_an_episode_terminates(last):
    agent = DQNAgent(MaskedObservation(Masking(last, False)), SMALL, seed=0).train()
    assert agent.episode == 3


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (None, "no action_mask in info in the last state of an episode that is truncated"),
        ([0, 0, 0], r"the action_mask \[0\.*, 0\.*, 0\.*\] leaves no action of Discrete\(3\)"),
    ],
)
def test_a_mask_is_needed_where_an_episode_is_truncated(last, said):
    with pytest.raises(ValueError, match=said):
        DQNAgent(MaskedObservation(Masking(last, True)), SMALL, seed=0).train()


@pytest.mark.parametrize(
    ("given", "said"), [("Taxi-v4", "gymnasium.make gives, got 'Taxi-v4'"), (Counting, "the class")]
)
def test_what_is_no_environment_is_refused(given, said):
    with pytest.raises(TypeError, match=said):
        DQNAgent(given)
    with pytest.raises(TypeError, match=said):
        evaluate(given, {"any": None})


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (None, "seed must be an integer, got None"),
        (0.5, "seed must be an integer, got 0.5"),
        (True, "seed must be an integer, got True"),
        (-1, "seed must be at least 0, got -1"),
        (2**64, "seed must be at most"),
    ],
)
def test_a_seed_is_a_whole_number(seed, said):
    with pytest.raises(ValueError, match=said):
        DQNAgent(Counting(False), seed=seed)
    assert DQNAgent(Counting(False), seed=np.uint64(2**64 - 1)).seed == 2**64 - 1


def test_evaluations_pay_what_the_state_was_before_the_step():
    class Known(Counting):
        def expected_reward(self, state, action):
            return float(state[0])

    for in_place in (False, True):
        played = evaluate(Known(in_place), {"none": _Nothing()}, seeds=[0], max_steps=6)
        assert played["reward"].tolist() == [2.5]
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        evaluate(Known(False), {"none": _Nothing()}, max_steps=-1)
    with pytest.raises(ValueError, match="has not ended after 3 steps"):
        evaluate(Known(False), {"none": _Nothing()}, max_steps=3)


class _Nothing:
    def act(self, state):
        return np.zeros(3, dtype=np.int8)


def test_the_actor_critic_remembers_observations_in_one_array_as_they_were():
    weights = []
    for in_place in (False, True):
        played = ActorCritic(Counting(in_place), ActorCriticConfig(steps=30), seed=0).train()
        weights.append(torch.cat([p.detach().ravel() for p in played.critic.parameters()]))
    assert torch.equal(*weights)
