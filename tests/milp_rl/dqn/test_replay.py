import numpy as np
import pytest

from milp_rl.dqn.replay import PrioritizedReplay


def filled(n: int, capacity: int = 8, alpha: float = 0.6, beta: float = 0.4) -> PrioritizedReplay:
    """Transition i has state [i, i], action [i], reward i, next state [i + 1, i + 1]."""
    replay = PrioritizedReplay(capacity, 2, 1, alpha, beta)
    for i in range(n):
        replay.add([[i, i]], [[i]], [i], [[i + 1, i + 1]], [i % 2])
    return replay


def test_samples_keep_the_parts_of_a_transition_together():
    batch = filled(5).sample(np.random.default_rng(0), 200)
    assert set(batch.rewards) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(batch.states, np.repeat(batch.rewards[:, None], 2, axis=1))
    np.testing.assert_array_equal(batch.actions[:, 0], batch.rewards)
    np.testing.assert_array_equal(batch.next_states, batch.states + 1)
    np.testing.assert_array_equal(batch.bootstrap, batch.rewards % 2)


def test_oldest_are_overwritten():
    replay = filled(11)
    assert len(replay) == 8
    assert set(replay.sample(np.random.default_rng(0), 500).rewards) == set(range(3, 11))


def test_adding_many_at_once_is_adding_one_by_one():
    batchwise = PrioritizedReplay(8, 2, 1, 0.6, 0.4)
    i = np.arange(11)
    states = np.stack([i, i], axis=1)
    batchwise.add(states, i[:, None], i, states + 1, i % 2)
    a, b = (r.sample(np.random.default_rng(0), 50) for r in (batchwise, filled(11)))
    np.testing.assert_array_equal(a.rewards, b.rewards)


def test_draws_and_weights_follow_the_priorities():
    alpha, beta = 0.7, 0.5
    replay = filled(4, alpha=alpha, beta=beta)
    errors = np.array([0.5, -1.0, 2.0, -4.0])
    replay.update(np.arange(4), errors)
    n = 40_000
    batch = replay.sample(np.random.default_rng(0), n)
    share = np.abs(errors) ** alpha / (np.abs(errors) ** alpha).sum()
    drawn = np.bincount(batch.index, minlength=4) / n
    assert np.abs(drawn - share).max() < 5 * 0.5 / np.sqrt(n)
    weights = (share.min() / share) ** beta  # (1 / (n p)) ** beta, over its maximum
    np.testing.assert_allclose(batch.weights, weights[batch.index], rtol=1e-4)


def test_new_transitions_get_the_largest_priority():
    replay = filled(3, alpha=1.0)
    replay.update(np.arange(3), np.array([1e-3, 1e-3, 50.0]))
    replay.add([[9, 9]], [[9]], [9], [[9, 9]], [0])
    rewards = replay.sample(np.random.default_rng(0), 10_000).rewards
    assert abs((rewards == 9).mean() - (rewards == 2).mean()) < 0.05
    assert (rewards == 9).mean() > 0.45


def test_error_zero_can_still_be_drawn():
    replay = filled(2, alpha=1.0)
    replay.update(np.arange(2), np.zeros(2))
    assert set(replay.sample(np.random.default_rng(0), 100).rewards) == {0, 1}


def test_restored_buffer_goes_on_as_the_stored_one():
    stored = filled(11)
    stored.update(np.array([0, 3, 5]), np.array([3.0, 0.1, 7.0]))
    restored = PrioritizedReplay(8, 2, 1, 0.6, 0.4)
    restored.load_state_dict(stored.state_dict())
    samples = []
    for replay in (stored, restored):
        replay.add([[20, 20]], [[20]], [20], [[21, 21]], [0])
        samples.append(replay.sample(np.random.default_rng(1), 100))
    for name in ("index", "states", "rewards", "next_states", "weights"):
        np.testing.assert_array_equal(getattr(samples[0], name), getattr(samples[1], name))


def test_empty_buffer_cannot_be_sampled():
    with pytest.raises(ValueError, match="empty"):
        filled(0).sample(np.random.default_rng(0), 1)
