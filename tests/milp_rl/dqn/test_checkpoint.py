import importlib.util
import json
import pickle
import signal
import warnings
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from milp_rl.dqn import Callback, CSVLogger, DQNAgent, DQNConfig
from milp_rl.dqn.checkpoint import AS_BEFORE, FORMAT
from milp_rl.envs import CapacityBandit, CapacityInstance, make_bandit
from milp_rl.graphq import GraphDQN, GraphDQNConfig, make_interventions
from tests.forks import python

SCRIPT = Path(__file__).with_name("killed_run.py")
_spec = importlib.util.spec_from_file_location("killed_run", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
killed_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killed_run)


def weights(agent: DQNAgent) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in agent.network.parameters())


@pytest.fixture(scope="module")
def uninterrupted() -> DQNAgent:
    return killed_run.agent().train()


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(uninterrupted, tmp_path):
    file = tmp_path / "run.pt"
    for when, count in (("epoch", 3), ("step", 3), ("step", 18), ("step", 28)):
        run = python(SCRIPT, file, when, count, cwd=tmp_path)
        assert run.returncode == -signal.SIGKILL, run.stderr
    resumed = killed_run.agent()
    resumed.train(checkpoint=file)
    assert resumed.step == 42
    assert weights(resumed) == weights(uninterrupted)


class Die(Callback):
    def __init__(self, after: int) -> None:
        self.left = after

    def on_pretrain_epoch(self, agent, loss):
        self.on_step(agent)

    def on_step(self, agent):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def changing(row: dict) -> dict:
    """Leave out what counts the work done rather than what is learnt."""
    return {key: row[key] for key in ("episode", "steps", "reward", "epsilon", "loss")}


@pytest.mark.parametrize("every", [1, 4, 1000])
def test_run_stopped_at_every_moment_ends_with_the_same_weights(uninterrupted, tmp_path, every):
    file = tmp_path / "run.pt"
    for moment in range(1, 5 + 42 + 1, 3):
        file.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            killed_run.agent().train([Die(moment)], checkpoint=file, checkpoint_every=every)
        resumed = killed_run.agent().train(checkpoint=file, checkpoint_every=every)
        assert weights(resumed) == weights(uninterrupted), moment
        assert [*map(changing, resumed.history)] == [*map(changing, uninterrupted.history)]


@pytest.mark.parametrize(
    "changes",
    [
        {"double": True},
        {"target_update": "soft", "tau": 0.1},
        {"early_gap": 0.3, "gap": 0.0},
        {"pretrain_epochs": 0},
        {"n_step": 3},
        {"architecture": "concat", "normalise": False},
        {"critics": 2},
    ],
    ids=str,
)
def test_every_variant_resumes_exactly(tmp_path, changes):
    config = replace(killed_run.CONFIG, episodes=4, **changes)
    whole = killed_run.agent(config).train()
    for moment in (2, 12, 20):
        file = tmp_path / f"{moment}.pt"
        with pytest.raises(KeyboardInterrupt):
            killed_run.agent(config).train([Die(moment)], checkpoint=file, checkpoint_every=3)
        assert weights(killed_run.agent(config).train(checkpoint=file)) == weights(whole)


def test_finished_run_is_not_trained_again(tmp_path, uninterrupted):
    file = tmp_path / "run.pt"
    killed_run.agent().train(checkpoint=file)
    again = killed_run.agent()
    assert weights(again.train([Die(1)], checkpoint=file)) == weights(uninterrupted)


def test_log_of_a_resumed_run_is_complete(tmp_path, uninterrupted):
    checkpoint, log = tmp_path / "run.pt", tmp_path / "log.csv"
    for moment in (20, 30):
        with pytest.raises(KeyboardInterrupt):
            killed_run.agent().train(
                [CSVLogger(log), Die(moment - 10)], checkpoint=checkpoint, checkpoint_every=5
            )
    killed_run.agent().train([CSVLogger(log)], checkpoint=checkpoint)
    lines = log.read_text().splitlines()
    assert lines[0].split(",")[:3] == ["episode", "steps", "reward"]
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(6)]
    rewards = [float(line.split(",")[2]) for line in lines[1:]]
    assert rewards == [row["reward"] for row in uninterrupted.history]


def test_loaded_agent_acts_the_same(tmp_path, uninterrupted):
    uninterrupted.save(tmp_path / "agent.pt")
    loaded = DQNAgent.load(tmp_path / "agent.pt", killed_run.agent().env)
    assert loaded.config == killed_run.CONFIG
    assert loaded.episode == 6
    for state in np.random.default_rng(0).integers(0, 4, (30, 4)):
        np.testing.assert_array_equal(loaded.act(state), uninterrupted.act(state))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: killed_run.agent(seed=4), "seed was 3, now 4"),
        (
            lambda: killed_run.agent(replace(killed_run.CONFIG, discount=0.5)),
            f"discount was {killed_run.CONFIG.discount}, now 0.5",
        ),
        (
            lambda: DQNAgent(
                CapacityBandit(CapacityInstance.generate(4, 2, seed=2)), killed_run.CONFIG, seed=3
            ),
            r"action space.* was .*, now",
        ),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, uninterrupted, other, named):
    uninterrupted.save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=f"another run: {named}"):
        other().train(checkpoint=tmp_path / "run.pt")


def test_weights_of_no_file_or_of_another_network_are_refused_by_name(tmp_path, uninterrupted):
    file = tmp_path / "best.pt"
    file.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"best\.pt has no tensors"):
        uninterrupted.use(file)
    for other in ({"a": torch.zeros(2)}, [1]):
        torch.save(other, file)
        with pytest.raises(ValueError, match=r"best\.pt has the weights of another network"):
            uninterrupted.use(file)


def test_damaged_files_are_refused(tmp_path, uninterrupted):
    file = tmp_path / "run.pt"
    uninterrupted.save(file)
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"text", whole[1000:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.pt has no tensors that can be read"):
            killed_run.agent().train(checkpoint=file)
    torch.save({"weights": 1}, file)
    with pytest.raises(ValueError, match="not a checkpoint of a"):
        DQNAgent.load(file, killed_run.agent().env)
    with pytest.raises(FileNotFoundError):
        DQNAgent.load(tmp_path / "none.pt", killed_run.agent().env)


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


def test_files_with_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "milp_rl.dqn/1", "config": Evil()}, "evil.pt")
    Path("evil.pickle").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "evil.pickle"):
        with pytest.raises(ValueError, match="without running code in it"):
            DQNAgent.load(name, killed_run.agent().env)
    assert not Path("pwned").exists()


# Other versions -----------------------------------------------------------------------------------

DATA = SCRIPT.with_name("data")  # as versions of these formats have written them


def _agent_in(name: str) -> DQNAgent:
    if name.startswith("graphdqn"):
        return GraphDQN.load(DATA / f"{name}.pt", make_interventions("5x5", seed=0, horizon=5))
    return DQNAgent.load(DATA / f"{name}.pt", killed_run.agent().env)


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.pt")))
def test_files_of_earlier_versions_act_and_learn_on(name, tmp_path):
    known = json.loads((DATA / f"{name}.json").read_text())
    agent = _agent_in(name)
    states = torch.tensor(known["states"]).float()
    with torch.no_grad():
        values = agent.network.q(states, torch.tensor(known["actions"]).float())
    np.testing.assert_allclose(values, known["values"], rtol=1e-4, atol=1e-5)
    assert [agent.act(state).tolist() for state in known["states"]] == known["best"]
    played = agent.episode
    longer = replace(agent.config, episodes=played + 1)
    agent.save(tmp_path / "now.pt")
    again = DQNAgent if type(agent) is DQNAgent else partial(GraphDQN, graph=agent.graph)
    resumed = again(agent.env, longer, seed=agent.seed).train(checkpoint=tmp_path / "now.pt")
    assert resumed.episode == played + 1
    assert weights(resumed) != weights(agent)


@pytest.mark.parametrize(("name", "kind"), [("dqn-7", DQNConfig), ("graphdqn-7", GraphDQNConfig)])
def test_every_parameter_added_since_has_the_value_that_changes_nothing(name, kind):
    stored = torch.load(DATA / f"{name}.pt", weights_only=True)["setup"]
    missing = {field.name for field in fields(kind)} - stored.keys() - AS_BEFORE.keys()
    assert not missing, f"say in checkpoint.AS_BEFORE what runs without {missing} have done"


def test_a_parameter_that_a_file_lacks_is_as_it_was_before_there_was_one(tmp_path, monkeypatch):
    content = torch.load(DATA / "dqn-7.pt", weights_only=True)
    del content["setup"]["n_step"]
    torch.save(content, tmp_path / "old.pt")
    monkeypatch.setitem(AS_BEFORE, "n_step", 3)
    loaded = DQNAgent.load(tmp_path / "old.pt", killed_run.agent().env)
    assert loaded.config.n_step == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": f"milp_rl.dqn/{FORMAT + 1}"}, "written by a later version"),
        ({"format": "milp_rl.dqn/6"}, "no longer read"),
        ({"setup": {"config": {"wings": 2}, "seed": 0}}, "does not have: wings"),
    ],
    ids=str,
)
def test_files_that_this_version_cannot_read_are_refused(tmp_path, uninterrupted, change, message):
    file = tmp_path / "run.pt"
    uninterrupted.save(file)
    torch.save({**torch.load(file, weights_only=True), **change}, file)
    with pytest.raises(ValueError, match=message):
        DQNAgent.load(file, killed_run.agent().env)


# More episodes than before ------------------------------------------------------------------------


def test_a_run_of_more_episodes_goes_on_as_if_it_had_had_them_from_the_start(
    tmp_path, uninterrupted
):
    file = tmp_path / "run.pt"
    short = killed_run.agent(replace(killed_run.CONFIG, episodes=4)).train(checkpoint=file)
    assert weights(short) != weights(uninterrupted)
    assert weights(killed_run.agent().train(checkpoint=file)) == weights(uninterrupted)
    with pytest.raises(ValueError, match="6 episodes were played, more than episodes=4"):
        killed_run.agent(replace(killed_run.CONFIG, episodes=4)).train(checkpoint=file)


def test_more_episodes_are_refused_where_the_gap_goes_by_them(tmp_path):
    config = replace(killed_run.CONFIG, early_gap=0.1, episodes=4)
    killed_run.agent(config).train(checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="early_gap is for the first half"):
        killed_run.agent(replace(config, episodes=6)).train(checkpoint=tmp_path / "run.pt")


def test_checkpoint_every_is_checked():
    with pytest.raises(ValueError, match="checkpoint_every"):
        killed_run.agent().train(checkpoint_every=0)


def test_an_environment_that_remembers_across_resets_is_warned_of(tmp_path):
    def make(normalised):
        env = make_bandit("budget", 6, 2, seed=0)
        return gym.wrappers.NormalizeObservation(env) if normalised else env

    config = DQNConfig(episodes=9, batch_size=4, pretrain_epochs=0, random_steps=20)
    for normalised in (False, True):
        path = tmp_path / f"{normalised}.pt"
        DQNAgent(make(normalised), config, seed=0).learn(70, checkpoint=path)
        again = DQNAgent(make(normalised), config, seed=0)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            again.learn(80, checkpoint=path)
        told = [str(one.message) for one in seen if "does not repeat itself" in str(one.message)]
        assert bool(told) == normalised
        assert all("after the same 10 actions the state is" in text for text in told)


def test_a_checkpoint_that_cannot_be_written_is_noticed_before_training(tmp_path):
    agent = DQNAgent(make_bandit("budget", 6, 2, seed=0), seed=0)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        agent.learn(2000, checkpoint=tmp_path / "nowhere" / "run.pt")
    assert agent.num_timesteps == 0
