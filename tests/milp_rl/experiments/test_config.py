from pathlib import Path

import pytest

from milp_rl.baselines.actor_critic import ActorCriticConfig
from milp_rl.dqn import DQNConfig
from milp_rl.experiments import ExperimentConfig
from milp_rl.graphq import GraphDQNConfig

SMALL = Path(__file__).parent / "small.toml"
SHIPPED = sorted((Path(__file__).parents[3] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path):
    assert ExperimentConfig.from_toml(path).cells()


def test_cells_are_every_method_on_every_instance_it_applies_to():
    config = ExperimentConfig.from_toml(SMALL)
    cells = config.cells()
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 8 + 7  # no Whittle index with capacities
    assert "budget-J4-B1-seed0-whittle" in names
    assert "capacity-J4-B1-seed0-whittle" not in names
    learners = {cell.method: cell.dqn for cell in cells if cell.dqn}
    assert set(learners) == {"iterative_dqn", "iterative_dqn_published", "sequoia", "double"}
    assert learners["sequoia"].hidden == (6, 6)
    assert not learners["sequoia"].double
    assert learners["double"].double
    assert learners["iterative_dqn"].argmax == "greedy"


def test_largest_instances_and_learners_come_first():
    config = ExperimentConfig(["budget"], [(4, 1), (9, 2)], [0], ["null", "sequoia"])
    order = [(cell.n_arms, cell.method) for cell in config.cells()]
    assert order == [(9, "sequoia"), (9, "null"), (4, "sequoia"), (4, "null")]


def test_paper_preset_has_the_published_parameters():
    config = ExperimentConfig(["budget"], [(4, 1)], [0], preset="paper", dqn={"episodes": 7})
    assert config.learner("sequoia")[1] == DQNConfig.paper(episodes=7)
    assert config.learner("iterative_dqn")[1] == DQNConfig.paper(episodes=7, argmax="greedy")


def test_a_learner_of_its_own_may_have_the_other_preset():
    learners = {"paper": {"preset": "paper", "n_step": 2}}
    config = ExperimentConfig(["budget"], [(4, 1)], [0], learners=learners)
    assert config.learner("paper")[1] == DQNConfig.paper(n_step=2)
    assert config.learner("sequoia")[1] == DQNConfig.restless()
    assert config.learner("sequoia_arms")[1] == DQNConfig()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("domains = [", "line 3, column 12: not TOML"),
        ("colour = 1", "line 4: unknown key 'colour'; known are"),
        ('domains = ["queue"]', "unknown domain 'queue'; known are"),
        ("domains = []", "domains must be a list with at least one entry"),
        ('domains = "budget"', "domains must be a list"),
        ("sizes = [[1, 2]]", "sizes are pairs"),
        ("sizes = [4, 2]", "line 3: sizes are pairs"),
        ("sizes = 4", "line 3: sizes must be a list"),
        ('domains = [["budget"]]', "line 3: unknown domain"),
        ('methods = ["myopia"]', "line 4: unknown method 'myopia'; is it 'myopic'"),
        ("dqn = 3", "line 4: dqn must be a table"),
        ("learners = 3", "line 4: learners must be a table"),
        ("[learners]\nmine = 3", "line 5: learner 'mine' must be a table"),
        ('[dqn]\nsolver = "cplex"', "line 5: dqn: solver must be one of 'auto'"),
        ('[dqn]\nlearning_rate = "fast"', "line 5: dqn: learning_rate must be a positive number"),
        ('[learners.mine]\nalgorith = "dqn"', "line 5: .*'mine'.*algorith.*; is it 'algorithm'"),
        ("seeds = [-1]", "seeds are integers"),
        ("seeds = [1, 1]", "seeds has an entry twice"),
        ('methods = ["fortune_teller"]', "unknown method 'fortune_teller'"),
        ("episodes = 1", "episodes must be an integer of at least 2"),
        ("horizon = 0", "horizon must be"),
        ('preset = "best"', "preset must be"),
        ("[dqn]\nepisodes = -1", "line 5: dqn: episodes must be"),
        ("[dqn]\nlayers = 2", "line 5: dqn: unknown parameter 'layers'"),
        ("[learners.myopic]", "cannot be named 'myopic'"),
        ('methods = ["greedy_on_arms"]', "plays the network of 'sequoia_arms': add that"),
        ('[learners.mine]\nof = "queue"', "unknown learner 'queue'"),
        ('[learners.mine]\nof = "greedy_on_arms"', "trains no network of its own"),
        ("[learners.dnc]\nsteps = -1", "learner 'dnc': steps must be"),
        ('[learners."a/b"]', "letters, digits"),
        ('[learners.big]\npreset = "big"', "preset must be"),
        ("[learners.big]\nhidden = []", "learner 'big': hidden"),
    ],
)
def test_wrong_files_are_refused_with_the_reason(tmp_path, line, message):
    path = tmp_path / "x.toml"
    good = {"domains": '["budget"]', "sizes": "[[4, 1]]", "seeds": "[0]"}
    key = line.split(" =")[0]
    lines = [f"{k} = {v}" for k, v in good.items() if k != key]
    path.write_text("\n".join([*lines, line]))
    with pytest.raises(ValueError, match=message):
        ExperimentConfig.from_toml(path)


def test_a_learner_plays_the_network_of_another_with_changes_of_its_own():
    learners = {
        "sequoia": {"n_step": 2},
        "by_highs": {"of": "sequoia", "solver": "highs"},
        "dnc": {"steps": 7},
    }
    methods = ["by_highs", "sequoia", "iterative_dqn_published", "dnc"]
    config = ExperimentConfig(["budget"], [(4, 1)], [0], methods, learners=learners)
    cells = {cell.method: cell for cell in config.cells()}
    assert cells["by_highs"].dqn == DQNConfig.restless(n_step=2, solver="highs")
    assert cells["iterative_dqn_published"].dqn == DQNConfig.restless(n_step=2, argmax="greedy")
    assert cells["dnc"].dqn == ActorCriticConfig(steps=7)
    assert cells["by_highs"].network == cells["sequoia"].network == "budget-J4-B1-seed0-sequoia"
    assert next(iter(cells)) == "sequoia"


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "x.toml").write_text('domains = ["budget"]\nsizes = [[4, 1]]')
    with pytest.raises(ValueError, match="'seeds' is missing"):
        ExperimentConfig.from_toml(tmp_path / "x.toml")


def test_learners_have_their_algorithm():
    config = ExperimentConfig(["interventions"], [(4, 2)], [0], learners={"mine": MINE})
    assert config.learner("sequoia") == ("dqn", DQNConfig.restless())
    assert config.learner("flat_dqn")[0] == "flat_dqn"
    algorithm, parameters = config.learner("graphq_beam")
    assert algorithm == "graphq"
    assert parameters == GraphDQNConfig(width=4)
    assert config.learner("mine") == ("graphq", GraphDQNConfig(channels=5))
    with pytest.raises(ValueError, match="unknown algorithm 'x'"):
        ExperimentConfig(["budget"], [(4, 2)], [0], learners={"mine": {"algorithm": "x"}})


MINE = {"algorithm": "graphq", "channels": 5}
