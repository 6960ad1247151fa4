"""Trees as networks in binary actions, against the trees."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn import ensemble

from milp_rl.formulations.networks.trees_reader import read_trees
from milp_rl.formulations.networks.trees_value import TreeValue


def _fitted(rng: np.random.Generator, n_actions: int, state_dim: int) -> Any:
    x = rng.normal(size=(400, n_actions + state_dim))
    x[:, :n_actions] = x[:, :n_actions] > 0
    y = np.sin(x @ rng.normal(size=x.shape[1])) + x[:, 0] * x[:, 1]
    kind = rng.choice(["forest", "boosting", "histogram"])
    model = {
        "forest": ensemble.RandomForestRegressor(4, max_depth=5, random_state=0),
        "boosting": ensemble.GradientBoostingRegressor(n_estimators=10, random_state=0),
        "histogram": ensemble.HistGradientBoostingRegressor(max_iter=10, random_state=0),
    }[str(kind)]
    return model.fit(x, y)


@pytest.mark.parametrize("seed", range(8))
def test_networks_have_the_values_of_the_trees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = _fitted(rng, 6, 3)
    value = TreeValue(read_trees(model), 6)
    states = rng.normal(size=(5, 3))
    networks = value.at_states(states)
    actions = np.array(list(itertools.product((0.0, 1.0), repeat=6)))
    for i, state in enumerate(states):
        rows = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
        wanted = model.predict(rows)
        here = np.full(len(actions), i)
        np.testing.assert_allclose(networks.values(actions, here), wanted, atol=1e-12)
        np.testing.assert_allclose(networks.at(i).forward(actions)[:, 0], wanted, atol=1e-12)
        np.testing.assert_allclose(networks.trees[i].forward(actions)[:, 0], wanted, atol=1e-12)
        np.testing.assert_allclose(value.values(rows[:, 6:], actions), wanted, atol=1e-12)
        turned = value.negated().at_states(states).values(actions, here)
        np.testing.assert_allclose(turned, -wanted, atol=1e-12)
        one = networks[i]
        assert one.n_states == len(one.trees) == 1
        np.testing.assert_allclose(one.values(actions, here * 0), wanted, atol=1e-12)


def test_trees_that_the_state_decides_are_linear_or_constant() -> None:
    x = np.array([[0.0, -1.0], [1.0, -1.0], [0.0, 1.0], [1.0, 1.0]])
    model = ensemble.RandomForestRegressor(1, bootstrap=False, random_state=0)
    value = TreeValue(read_trees(model.fit(x, [1.0, 1.0, 2.0, 5.0])), 1)
    networks = value.at_states(np.array([[-1.0], [1.0]]))
    assert not networks.hidden
    actions = np.array([[0.0], [1.0]])
    for i, wanted in enumerate(([1.0, 1.0], [2.0, 5.0])):
        assert networks.values(actions, np.full(2, i)).tolist() == wanted
    with pytest.raises(ValueError, match=r"take 2 inputs, .* there are 3 actions"):
        TreeValue(value.trees, 3)
