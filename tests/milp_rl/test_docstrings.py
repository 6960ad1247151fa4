"""Docstrings of environments have Gymnasium's sections, and what these say is so."""

from __future__ import annotations

import inspect
import re

import gymnasium
import numpy as np
import pytest

import milp_rl
import milp_rl.envs
import milp_rl.envs.engagement
import milp_rl.envs.performative
import milp_rl.graphq
from milp_rl.envs.care_management import RewardWeights

SECTIONS = (
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
)
ENVIRONMENTS = (gymnasium.Env, gymnasium.vector.VectorEnv)


def registered():
    specs = [spec for name, spec in gymnasium.registry.items() if name.startswith("milp_rl/")]
    return {
        spec.id: gymnasium.envs.registration.load_env_creator(spec.entry_point) for spec in specs
    }


def documented():
    """All registered and exported environment classes, and the functions that make one."""
    found = set(registered().values())
    for module in (milp_rl.envs, milp_rl.envs.performative, milp_rl.graphq):
        for name in module.__all__:
            value = getattr(module, name)
            of_class = inspect.isclass(value) and issubclass(value, ENVIRONMENTS)
            of_class = of_class and not issubclass(value, gymnasium.Wrapper)
            if of_class or name.startswith("make_"):
                found.add(value)
    return sorted(found, key=lambda value: value.__name__)


def sections(value):
    """The text of each section, by its title, in order."""
    parts = re.split(r"^(.+)\n-{3,}\n", inspect.getdoc(value), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def example(value):
    return re.search(r"```python\n(.*?)```", sections(value)["Arguments"], re.DOTALL)


def made(value):
    """The environment that the example of the arguments makes."""
    names = {"gymnasium": gymnasium, "Box": milp_rl.Box, "RewardWeights": RewardWeights}
    for module in (milp_rl.envs, milp_rl.envs.engagement, milp_rl.graphq):
        names |= {name: getattr(module, name) for name in module.__all__}
    *lines, last = example(value)[1].strip().splitlines()
    exec("\n".join(lines), names)
    return eval(last, names)


DOCUMENTED = documented()
MAKING = [value for value in DOCUMENTED if example(value)]


@pytest.mark.parametrize("value", DOCUMENTED, ids=lambda value: value.__name__)
def test_environments_have_gymnasiums_sections_in_order(value):
    found = sections(value)
    assert [title for title in found if title in SECTIONS] == list(SECTIONS)
    assert all(found[title].strip() for title in SECTIONS)


@pytest.mark.parametrize("name", registered())
def test_the_arguments_of_registered_environments_name_their_id(name):
    text = sections(registered()[name])["Arguments"]
    assert f'gymnasium.make("{name}"' in text


@pytest.mark.parametrize("value", MAKING, ids=lambda value: value.__name__)
def test_what_the_sections_say_is_so(value):
    env, text = made(value), sections(value)
    if inspect.isclass(value):
        assert isinstance(env.unwrapped, value)
    space = env.action_space
    space.seed(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        assert f"``{space!r}``" in text["Action Space"]
    else:
        assert str(space.dtype) in text["Action Space"]
    state, _ = env.reset(seed=0)
    assert env.observation_space.contains(state)
    if "own" not in text["Observation Space"]:
        assert str(state.dtype) in text["Observation Space"]
    over, steps = False, 0
    while not over:
        state, _, terminated, truncated, _ = env.step(space.sample())
        assert env.observation_space.contains(state)
        steps += 1
        over = bool(np.any(terminated) or np.any(truncated))
    if "runcated" in text["Episode End"] and "never truncated" not in text["Episode End"]:
        assert np.all(truncated)
        assert not np.any(terminated)
        assert steps == getattr(env.unwrapped, "env", env.unwrapped).horizon
    elif "never truncated" in text["Episode End"]:
        assert terminated
        assert not truncated


@pytest.mark.parametrize("name", registered())
def test_the_default_horizon_is_the_one_stated(name):
    env = gymnasium.make(name).unwrapped
    stated = re.search(r"(\d+) by default", sections(type(env))["Episode End"])
    assert (int(stated[1]) if stated else None) == getattr(env, "horizon", None)


def test_almost_all_examples_of_arguments_run():
    bases = {"AdditiveBandit", "KnownModelEnv", "RestlessBandit"}
    assert {value.__name__ for value in DOCUMENTED} - {v.__name__ for v in MAKING} == bases
