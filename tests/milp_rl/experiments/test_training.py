"""One training in a folder, and what the command line makes of names and values."""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

import milp_rl as mr
from milp_rl.cli.training import named_values, read_parameters
from milp_rl.dqn import DQNAgent, DQNConfig
from milp_rl.envs import make_bandit
from milp_rl.experiments.training import TrainingRun, run_training

SHORT = {
    "architecture": "concat",
    "normalise": False,
    "hidden": [6, 6],
    "batch_size": 8,
    "updates_per_step": 1,
    "sync_every": 5,
    "pretrain_epochs": 2,
    "pretrain_states": 5,
    "solver": "enumeration",
}
SIZE = {"domain": "capacity", "n_arms": 4, "budget": 2, "horizon": 7, "seed": 1}
RUN = TrainingRun(
    environment="milp_rl.envs:milp_rl/Bandit-v0",
    arguments=SIZE,
    parameters=SHORT,
    seed=3,
    evaluate_every=10,
    evaluation_episodes=2,
)


def test_a_run_is_that_of_the_agent_and_goes_on(tmp_path):
    phases = []
    first = run_training(RUN, tmp_path, steps=20, progress=lambda *about: phases.append(about))
    assert (first.steps, first.stopped) == (20, False)
    assert {phase for phase, *_ in phases} == {"pretraining", "steps"}
    assert phases[-1] == ("steps", 20, 20)
    second = run_training(RUN, tmp_path, steps=40)
    assert (second.steps, second.episodes) == (40, 5)
    plain = DQNAgent(make_bandit(**SIZE), DQNConfig(**SHORT), seed=3).learn(40)
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["learner"]["averaged"]
    assert all(torch.equal(stored[n], w) for n, w in plain.network.state_dict().items())

    curve = pd.read_csv(tmp_path / "evaluations.csv")
    assert curve["step"].tolist() == [10, 20, 30, 40]
    assert second.step == curve["step"][curve["return"].idxmax()]
    assert len(pd.read_csv(tmp_path / "episodes.csv")) == 5
    assert f"{second.mean:.6g}" in (tmp_path / "report.md").read_text()
    assert "data:image/png" in second.report.read_text()
    plain.use(tmp_path / "best.pt")
    solver = mr.ArgmaxSolver(tmp_path / "q.onnx", mr.ActionSpace.from_json(tmp_path / "space.json"))
    state = np.array([1.0, 0.0, 2.0, 3.0])
    assert solver.solve(state).action.tolist() == plain.act(state).tolist()

    with pytest.raises(ValueError, match=r"other settings \(seed was 3, now 4\)"):
        run_training(replace(RUN, seed=4), tmp_path, steps=40)


def test_an_environment_without_a_feasible_set_is_given_one(tmp_path):
    class Switches(gym.Env):
        observation_space = gym.spaces.MultiBinary(3)
        action_space = gym.spaces.MultiBinary(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.on, self.t = self.np_random.integers(0, 2, 3).astype(np.int8), 0
            return self.on, {}

        def step(self, action):
            assert action.sum() <= 1
            self.on, self.t = np.maximum(self.on, action).astype(np.int8), self.t + 1
            return self.on, float(self.on.sum()), False, self.t == 4, {}

    gym.register(id="Switches-v0", entry_point=Switches)
    try:
        changes = {"environment": "Switches-v0", "arguments": {}, "agent": "flat_dqn"}
        run = replace(RUN, **changes, parameters={**SHORT, "pretrain_epochs": 0})
        done = run_training(replace(run, space=mr.BudgetTopK(3, 1)), tmp_path, steps=10)
        assert done.episodes == 2
        assert 0 <= done.mean <= 12
    finally:
        gym.registry.pop("Switches-v0")


def test_wrappers_of_the_environment_are_evaluated_too(tmp_path, monkeypatch):
    class Growing(gym.Wrapper):
        """At most as many arms as are not in state zero."""

        def action_space_block(self, state):
            return mr.BudgetTopK(4, min(2, int((state > 0).sum())))

    def make(factor):
        return Growing(gym.wrappers.TransformReward(make_bandit(**SIZE), lambda r: factor * r))

    module = types.ModuleType("wrapped_bandits")
    module.make = make
    monkeypatch.setitem(sys.modules, "wrapped_bandits", module)
    runs = []
    for factor in (1.0, 64.0):
        run = replace(
            RUN,
            environment="wrapped_bandits:make",
            arguments={"factor": factor},
            parameters={**SHORT, "pretrain_epochs": 0, "normalise": False, "epsilon_start": 0.0},
        )
        runs.append(run_training(run, tmp_path / str(factor), steps=3))
    assert runs[1].mean == pytest.approx(64.0 * runs[0].mean)  # the same network, hardly trained
    assert not (tmp_path / "1.0" / "space.json").exists()  # there is not one for all states


def test_a_function_makes_the_environment_too():
    env = replace(RUN, environment="milp_rl.envs:make_bandit").make()
    assert env.action_space_block() == RUN.make().unwrapped.action_space_block()
    with pytest.raises(ValueError, match="make_bandit cannot be made with the arguments"):
        replace(RUN, environment="milp_rl.envs:make_bandit", arguments={}).make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": "milp_rl.envs:milp_rl/Bandi-v0"}, "Did you mean: `Bandit`"),
        ({"arguments": {"arms": 3}}, r"cannot be made with the arguments {\"arms\": 3}"),
        ({"parameters": {"n_stp": 3}}, "unknown parameter 'n_stp' of DQNConfig; is it 'n_step'"),
        (
            {"parameters": {"learning_rate": "fast"}},
            "learning_rate must be a positive number, got 'fast'",
        ),
        ({"agent": "dqm"}, "unknown agent 'dqm'; known are dqn, flat_dqn, graphq"),
    ],
    ids=str,
)
def test_unknown_names_are_explained_and_leave_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_training(replace(RUN, **changes), tmp_path, steps=10)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []


def test_a_budget_that_is_too_small_leaves_nothing(tmp_path):
    run = replace(RUN, parameters={**SHORT, "random_steps": 30, "expected_rewards": False})
    with pytest.raises(ValueError, match=r"steps must be more than the 30 random ones.*got 20"):
        run_training(run, tmp_path, steps=20)
    assert run_training(RUN, tmp_path, steps=10).steps == 10  # by other settings


@pytest.mark.parametrize("refused", [{"seconds": -1.0}, {"checkpoint_every": 0}])
def test_a_refused_budget_leaves_no_settings(tmp_path, refused):
    with pytest.raises(ValueError, match="must be"):
        run_training(RUN, tmp_path, steps=10, **refused)
    with pytest.raises(ValueError, match="every must be at least 1"):
        run_training(replace(RUN, evaluate_every=0), tmp_path, steps=10)
    assert run_training(replace(RUN, seed=4), tmp_path, steps=10).steps == 10  # by other settings


def test_values_are_read_as_json_or_text(tmp_path):
    texts = ["hidden=[8, 8]", "double=true", "early_gap=null", "loss=hinge", "gap=1e-3"]
    assert named_values(texts, "--set") == {
        "hidden": [8, 8],
        "double": True,
        "early_gap": None,
        "loss": "hinge",
        "gap": 1e-3,
    }
    Path(tmp_path / "c.json").write_text(json.dumps({"gap": 0.5, "n_step": 2}))
    Path(tmp_path / "c.toml").write_text("gap = 0.5\nn_step = 2\n")
    for name in ("c.json", "c.toml"):
        assert read_parameters(tmp_path / name, ["gap=0.1"]) == {"gap": 0.1, "n_step": 2}
    with pytest.raises(ValueError, match="--set takes name=value, got 'gap'"):
        named_values(["gap"], "--set")


def test_a_module_that_has_no_such_environment_is_named():
    with pytest.raises(ValueError, match="The module json has no function nope, and registers"):
        TrainingRun(environment="json:nope").make()
    with pytest.raises(ValueError, match="If a module of yours registers it, write MODULE:nope"):
        TrainingRun(environment="nope").make()
