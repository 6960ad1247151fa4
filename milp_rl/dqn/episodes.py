"""Playing episodes: numbers are checked, and episodes that were interrupted are gone on with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.dqn.lanes import Lanes
from milp_rl.dqn.replay import Step
from milp_rl.envs.fixed_set import FixedSet, shown
from milp_rl.envs.known_model import StateArray, model_of
from milp_rl.envs.observed import finite_reward, finite_state
from milp_rl.formulations.arrays import ActionArray


@dataclass
class RunningEpisode:
    """What a checkpoint in the middle of an episode must hold.

    The environment itself is not stored: it is reset with the episode's seed and given the same
    actions again, which works for every environment that its seed makes reproducible.
    """

    number: int = 0
    """Which episode it is, in the order in which they were begun; its seed goes by it."""

    actions: list[list[float]] = field(default_factory=list)
    """The actions played so far."""

    reward: float = 0.0
    """Sum of the rewards so far."""

    loss: float = 0.0
    """Sum of the losses of its updates."""

    updates: int = 0
    """Updates so far."""

    seconds: float = 0.0
    """Wall-clock time of its steps, with their updates."""

    state: list[float] | None = None
    """The state that it has come to, if it is known."""


class EpisodePlayer:
    """Plays the episodes of an environment, or of several at once, one in each lane.

    Parameters
    ----------
    lanes
        The environments that are played.
    env
        One like them, which is asked for feasible sets and for its model.
    feasible
        Its feasible sets, which are asked for in every state that is met.
    state_dim
        Length of a state.
    seed
        Seed of the run, by which and by their numbers those of the episodes go.
    expected_rewards
        Take ``env.expected_reward`` for the reward, where it exists, rather than a sample.

    Attributes
    ----------
    rewards_expected
        Whether rewards are those expected.
    never_ends
        Whether transitions are learnt from that a model gave, which says nothing of ends: then an
        episode that terminates is refused.
    """

    def __init__(
        self,
        lanes: Lanes,
        env: gym.Env[Any, Any],
        feasible: FixedSet,
        state_dim: int,
        *,
        seed: int,
        expected_rewards: bool,
    ) -> None:
        self._lanes = lanes
        self._env = env
        self._feasible = feasible
        self._seed = seed
        self.never_ends = False
        self.rewards_expected = expected_rewards and hasattr(model_of(env), "expected_reward")
        self._numbers = [0] * lanes.n
        self._played = [0] * lanes.n
        self._over = np.zeros(lanes.n, dtype=bool)  # lanes whose episode has ended
        self._states: StateArray = np.zeros((lanes.n, state_dim), dtype=np.float32)
        self._actions: list[ActionArray] = []  # the last of each lane

    def resume(
        self, running: Sequence[RunningEpisode], step: int
    ) -> tuple[list[RunningEpisode], list[list[Step]]]:
        """Begin an episode in each lane, or play again what was played of it.

        Where the lanes' episodes cannot be begun with a seed each, nothing can be played again:
        those that were interrupted are left, and new ones begin.

        Parameters
        ----------
        running
            The episode of each lane.
        step
            Steps done so far.

        Returns
        -------
        tuple
            The episode that now runs in each lane, and the steps of it that were played again.
        """
        n = self._lanes.n
        self._actions = []
        played: list[list[Step]] = [[] for _ in range(n)]
        repeats = self._lanes.repeats
        self._reset(running, np.ones(n, dtype=bool), 0 if repeats else step)
        if not repeats:
            return [RunningEpisode(episode.number) for episode in running], played
        lengths = np.array([len(episode.actions) for episode in running])
        longest, filler = int(lengths.max()), np.random.default_rng(0)
        dtype = self._feasible.space.dtype
        for t in range(longest):
            # A lane that has played less than another does something else until its turn comes.
            begins = (lengths == longest - t) if t else np.zeros(n, dtype=bool)
            self._reset(running, begins | self._over)
            actions: list[ActionArray] = []
            for i, episode in enumerate(running):
                at = t - longest + int(lengths[i])
                if at >= 0:
                    actions.append(np.asarray(episode.actions[at]).astype(dtype))
                else:
                    space = self._feasible.in_state(self._states[i])
                    actions.append(space.sample(filler, 1)[0])
            for i, step_ in self.step(actions):
                if t - longest + lengths[i] >= 0:
                    played[i].append(step_)
        if longest:
            self._reset(running, lengths == 0)
        self._warn_unless_repeated(running)
        return list(running), played

    def _warn_unless_repeated(self, running: Sequence[RunningEpisode]) -> None:
        """Warn where an episode that was played again has come to another state than before."""
        for i, episode in enumerate(running):
            known = episode.state
            if known is None or np.array_equal(np.asarray(known, np.float32), self._states[i]):
                continue
            warnings.warn(
                f"episode {episode.number} does not repeat itself from its seed: after the same"
                f" {len(episode.actions)} actions the state is {shown(self._states[i])}, and was"
                f" {shown(known)} when it was interrupted. Training goes on, but not to the weights"
                " that it would have come to: something in the environment, such as the statistics"
                " of NormalizeObservation, outlives reset(seed=...)",
                stacklevel=2,
            )

    def states(self, running: Sequence[RunningEpisode]) -> StateArray:
        """Return the states in which actions are to be chosen, beginning the episodes due.

        Given the episode of each lane; of the lanes in which an action is played, shape (at most
        lanes, state_dim).
        """
        self._numbers = [episode.number for episode in running]
        if self._over.any() and not self._lanes.begins_itself:
            self._reset(running, self._over)
        return self._states[~self._lanes.waiting]

    def step(self, actions: Sequence[ActionArray]) -> list[tuple[int, Step]]:
        """Play an action in each of the lanes in which one was to be chosen.

        Returns
        -------
        list of tuple
            The lanes in which something was played, and what.

        Raises
        ------
        ValueError
            If an observation or a reward is not finite, the feasible set of a state that follows
            cannot be learnt with, or an episode terminates that cannot by a model.
        """
        acting = np.flatnonzero(~self._lanes.waiting).tolist()
        if not self._actions:
            self._actions = list(actions)
        for i, action in zip(acting, actions, strict=True):
            self._actions[i] = action
        before = self._states.copy()
        after = self._lanes.step(self._actions)
        expected = None
        if self.rewards_expected and acting:
            expected = model_of(self._env).expected_reward(before[acting], np.array(actions))
        steps = []
        for k, i in enumerate(acting):
            moment = f"step {self._played[i]} of episode {self._numbers[i]}"
            observed, terminated = after.observed[i], bool(after.terminated[i])
            if terminated and self.never_ends:
                raise ValueError(
                    f"{moment} has terminated, which the environment's model cannot say: in the"
                    " transitions of sample_next that training began with, everything goes on."
                    " Begin with random play instead (random_steps=1000), or let episodes be"
                    " truncated, and go on in a state without rewards where nothing follows"
                )
            state = self._finite(observed, f"after {moment}")
            if not terminated:  # in the end nothing is chosen
                self._feasible.at(observed)
            reward = after.rewards[i] if expected is None else expected[k]
            paid = finite_reward(reward, f"of {moment}")
            truncated = bool(after.truncated[i])
            self._played[i] += 1
            self._states[i] = state
            self._over[i] = terminated or truncated
            steps.append((i, Step(before[i], actions[k], paid, state, terminated, truncated)))
        for i, observed in after.begun.items():
            self._begin(i, observed, f"at the beginning of an episode in environment {i}")
        return steps

    def _reset(
        self, running: Sequence[RunningEpisode], which: NDArray[np.bool_], step: int = 0
    ) -> None:
        """Begin episodes in some lanes; those of a later step than the first are others."""
        if which.any():
            also = [step] if step else []
            seeds = [_seed_of(self._seed, episode.number, *also) for episode in running]
            observed = self._lanes.reset(seeds, which)
            for i in np.flatnonzero(which).tolist():
                self._numbers[i] = running[i].number
                self._begin(i, observed[i], f"after the reset of episode {running[i].number}")

    def _begin(self, lane: int, observed: Any, moment: str) -> None:
        self._states[lane] = self._finite(observed, moment)
        self._feasible.at(observed)
        self._played[lane], self._over[lane] = 0, False

    def _finite(self, observed: Any, moment: str) -> StateArray:
        return finite_state(observed, self._states.shape[1], moment)


def _seed_of(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
