import pytest

from milp_rl.dqn import DQNConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", ()),
        ("hidden", (16, 0)),
        ("hidden", (16, 2.5)),
        ("discount", 1.0),
        ("discount", float("nan")),
        ("episodes", -1),
        ("episodes", 1.5),
        ("batch_size", 0),
        ("updates_per_step", True),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("learning_rate_decay", 1.1),
        ("tau", 0.0),
        ("clip_value", -5.0),
        ("priority_exponent", 1.5),
        ("epsilon_start", -0.1),
        ("gap", -0.01),
        ("early_gap", -0.01),
        ("time_limit", 0),
        ("target_update", "medium"),
        ("cache_size", 0),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        DQNConfig(**{name: value})


def test_paper_parameters():
    paper = DQNConfig.paper()
    for config in (paper, DQNConfig.restless()):
        assert config.hidden == (16, 32)
        assert (config.discount, config.learning_rate, config.batch_size) == (0.99, 2.5e-4, 32)
        assert (config.buffer_size, config.priority_exponent) == (10_000, 0.6)
        assert (config.importance_exponent, config.clip_value) == (0.4, 5)
        assert (config.epsilon_start, config.epsilon_end, config.epsilon_decay) == (0.9, 0.05, 1000)
        assert (config.pretrain_epochs, config.episodes) == (300, 100)
    assert (paper.target_update, paper.gap, paper.updates_per_step) == ("soft", 0.02, 1)
    assert DQNConfig.paper(episodes=5, gap=0.0).episodes == 5


def test_hidden_may_be_a_list():
    assert DQNConfig(hidden=[4, 4]) == DQNConfig(hidden=(4, 4))  # type: ignore[arg-type]
