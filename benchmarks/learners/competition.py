"""Domains of the planning competitions (IPPC 2011 and 2014), and what a planner would do by hand.

More actions at once are allowed than in the competitions, whose instances allow one or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.rddl import RDDLEnv, from_rddl


class _ByName:
    """The state and the actions of an RDDL environment by the names of ground fluents."""

    def __init__(self, env: Any) -> None:
        self.env: RDDLEnv = env.unwrapped
        self.most = self.env.action_space_block(self.env.reset(seed=0)[0]).k
        self.place = {name: i for i, name in reversed(list(enumerate(self.env.feature_names)))}
        self.arm = {name: i for i, name in enumerate(self.env.action_names)}
        self.objects = self.env.model.type_to_objects
        self.constants: dict[str, NDArray[Any]] = {
            name: np.asarray(self.env.simulator.init_values[name])
            for name in self.env.model.non_fluents
        }

    def of(self, fluent: str, state: Any) -> NDArray[np.bool_]:
        """Return the values of a fluent in the order of its groundings."""
        names = [name for name in self.place if name.startswith(f"{fluent}(")]
        return np.array([state[self.place[name]] > 0.5 for name in self._ordered(names)])

    def arms(self, action: str) -> NDArray[np.intp]:
        """Return the arms of an action fluent in the order of its groundings."""
        names = [name for name in self.arm if name.startswith(f"{action}(")]
        return np.array([self.arm[name] for name in names])

    def first(self, wanted: Sequence[int]) -> NDArray[np.int8]:
        """Return the action of the first wanted arms."""
        action = np.zeros(len(self.arm), dtype=np.int8)
        action[list(dict.fromkeys(int(arm) for arm in wanted))[: self.most]] = 1
        return action

    def _ordered(self, names: list[str]) -> list[str]:
        """Return groundings in the order of their objects."""
        ranks = {name: i for own in self.objects.values() for i, name in enumerate(own)}

        def rank(name: str) -> list[int]:
            return [ranks[part.strip()] for part in name[name.index("(") + 1 : -1].split(",")]

        return sorted(names, key=rank)


class RebootTheDown(_ByName):
    """Reboots computers that are down."""

    def act(self, state: Any) -> NDArray[np.int8]:
        return self.first(self.arms("reboot")[~self.of("running", state)])


class KeepAlive(_ByName):
    """Sets the cells that add most to those alive over the next steps, without noise."""

    ahead = 4

    def act(self, state: Any) -> NDArray[np.int8]:
        near = self.constants["NEIGHBOR"].reshape(len(self.arm), -1).astype(int)
        alive, cells = self.of("alive", state), self.arms("set")
        chosen: list[int] = []
        while len(chosen) < self.most:
            options = [[*chosen, i] for i in range(len(cells)) if i not in chosen]
            values = np.array([self._value(alive, near, own) for own in [chosen, *options]])
            best = int(values.argmax())
            if best == 0:
                break
            chosen = options[best - 1]
        return self.first(cells[chosen])

    def _value(self, alive: NDArray[np.bool_], near: NDArray[Any], chosen: list[int]) -> float:
        value = -1.0 * len(chosen)
        for step in range(self.ahead):
            count = near @ alive
            alive = (count == 3) | (alive & (count == 2))
            if step == 0:
                alive[chosen] = True
            value += float(alive.sum())
        return value


class EradicateThenRestore(_ByName):
    """Eradicates tamarisk where there is any, most first, and restores reaches with empty slots."""

    def act(self, state: Any) -> NDArray[np.int8]:
        at = self.constants["SLOT-AT-REACH"].astype(int)
        tamarisk, native = self.of("tamarisk-at", state), self.of("native-at", state)
        invaded, empty = tamarisk @ at, (~tamarisk & ~native) @ at
        by_invasion, by_emptiness = np.argsort(-invaded), np.argsort(-empty)
        return self.first(
            [
                *self.arms("eradicate")[by_invasion[invaded[by_invasion] > 0]],
                *self.arms("restore")[by_emptiness[empty[by_emptiness] > 0]],
            ]
        )


class WhatIsNeededNext(_ByName):
    """Takes courses that the program needs and whose prerequisites are passed."""

    def act(self, state: Any) -> NDArray[np.int8]:
        before = self.constants["PREREQ"].astype(bool)  # the first is one of the second
        required = self.constants["PROGRAM_REQUIREMENT"].astype(bool)
        passed = self.of("passed", state)
        if passed[required].all():
            return self.first([])
        needed, reach = required.copy(), before.copy()
        for _ in range(len(required)):
            needed |= before[:, needed].any(axis=1)
            reach |= (reach.astype(int) @ before.astype(int)) > 0
        ready = needed & ~passed & ~(before & ~passed[:, None]).any(axis=0)
        opens = reach[:, needed].sum(axis=1)
        courses = np.flatnonzero(ready)
        return self.first(self.arms("takeCourse")[courses[np.argsort(-opens[courses])]])


class PutOutNearTargets(_ByName):
    """Puts out burning cells: targets first, then those next to most targets."""

    def act(self, state: Any) -> NDArray[np.int8]:
        target = self.constants["TARGET"].ravel().astype(bool)
        near = self.constants["NEIGHBOR"].reshape(len(target), -1).astype(int)
        burning = self.of("burning", state)
        worth = 100 * target + near @ target
        cells = np.flatnonzero(burning)
        return self.first(self.arms("put-out")[cells[np.argsort(-worth[cells], kind="stable")]])


COMPETITION = {
    "sysadmin20": ("SysAdmin_MDP_ippc2011", "4", 4, RebootTheDown),
    "sysadmin50": ("SysAdmin_MDP_ippc2011", "10", 5, RebootTheDown),
    "life30": ("GameOfLife_MDP_ippc2011", "10", 4, KeepAlive),
    "tamarisk16": ("Tamarisk_MDP_ippc2014", "10", 4, EradicateThenRestore),
    "advising30": ("AcademicAdvising_MDP_ippc2014", "10", 4, WhatIsNeededNext),
    "wildfire72": ("Wildfire_MDP_ippc2014", "10", 4, PutOutNearTargets),
}
"""Problem of rddlrepository, instance, actions at once, and the heuristic."""


def competition_env(name: str) -> RDDLEnv:
    problem, instance, most, _ = COMPETITION[name]
    return from_rddl(problem, instance, max_actions=most)
