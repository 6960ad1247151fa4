"""Reset options that an environment does not know are refused, not ignored."""

from __future__ import annotations

import gymnasium as gym
import pytest

import milp_rl.envs
import milp_rl.graphq  # noqa: F401  (both register their ids)

IDS = sorted(name for name in gym.registry if name.startswith("milp_rl/"))


@pytest.mark.parametrize("name", IDS)
def test_unknown_reset_options_are_refused(name):
    env = gym.make(name)
    with pytest.raises(ValueError, match=r"unknown reset options \['severity'\]"):
        env.reset(seed=0, options={"severity": 1.0})
    env.reset(seed=0, options={})
