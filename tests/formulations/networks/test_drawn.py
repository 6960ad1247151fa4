"""Networks of every kind, drawn at random, are what onnxruntime says they are.

``MILP_RL_FUZZ=5000 pytest tests/formulations/networks/test_drawn.py`` is the long run.
"""

import os

import numpy as np
import pytest

from milp_rl.formulations.networks.action_value import ActionNetworks, NetworkValue
from tests.formulations.networks.drawn import (
    BY_STATE,
    PLAIN,
    agree,
    drawn_network,
    drawn_value,
)

CASES = int(os.environ.get("MILP_RL_FUZZ", "70"))
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", PLAIN)
def test_networks_are_what_onnxruntime_evaluates(kind, part):
    seen = []
    for case in range(part, CASES, PARTS):
        rng = np.random.default_rng([case, len(kind)])
        network, values = drawn_network(kind, rng)
        x = rng.normal(size=(4, 5))
        expected = values(x)
        assert network.n_outputs == 1
        agree(network, network.forward(x)[:, 0], expected)
        seen.append(np.ptp(expected))
    assert np.mean(np.array(seen) > 0) > 0.6


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", [*BY_STATE, "residual", "leaky"])
def test_action_values_are_what_onnxruntime_evaluates(kind, part):
    for case in range(part, CASES, PARTS):
        rng = np.random.default_rng([case, len(kind), 1])
        value, values = drawn_value(kind, rng)
        assert (value.n_actions, value.state_dim) == (5, 3)
        assert isinstance(value, NetworkValue) == (kind in ("two inputs", "residual", "leaky"))
        states = rng.normal(size=(4, 3))
        actions = np.where(rng.random((4, 5)) < 0.7, rng.integers(0, 2, (4, 5)), rng.random((4, 5)))
        networks = value.at_states(states)
        assert isinstance(networks, ActionNetworks)
        expected = values(states, actions)
        agree(value, networks.values(actions, np.arange(4)), expected)
        one = [value.at_state(s).forward(a)[0] for s, a in zip(states, actions, strict=True)]
        agree(value, one, expected)
        batch = [networks.at(i).forward(actions[i])[0] for i in range(4)]
        assert one == batch  # a state is worth the same whatever states are beside it
