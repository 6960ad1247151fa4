"""The order of things in a training: pretraining, episodes, until its budget is spent.

What is learnt, and how, is :mod:`milp_rl.dqn.learner`; here the environment is played, callbacks
are told, and checkpoints are written.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from milp_rl.dqn.callbacks import Callback
from milp_rl.dqn.episodes import RunningEpisode

if TYPE_CHECKING:
    from milp_rl.dqn.agent import DQNAgent


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a training is over: as soon as one of these is reached.

    Attributes
    ----------
    episodes
        Episodes in all, those of earlier calls among them; ``None``: any number.
    steps
        Steps of the environment in all, those of earlier calls and random ones among them.
    seconds
        Wall-clock time of this call.
    """

    episodes: int | None = None
    steps: int | None = None
    seconds: float | None = None

    def spent(self, agent: DQNAgent, seconds: float) -> bool:
        """Whether it is over, so many seconds after this call began."""
        return (
            (self.episodes is not None and agent.episode >= self.episodes)
            or (self.steps is not None and agent.num_timesteps >= self.steps)
            or (self.seconds is not None and seconds >= self.seconds)
        )


class Training:
    """A training of an agent, on from where it is.

    Parameters
    ----------
    agent
        The agent.
    callbacks
        Observers, called in order; each may stop the training.
    checkpoint
        A file to write everything to, or ``None``.
    checkpoint_every
        Steps, in pretraining epochs, between checkpoints.

    Raises
    ------
    ValueError
        If ``checkpoint_every`` is below 1.
    """

    def __init__(
        self,
        agent: DQNAgent,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        checkpoint_every: int,
    ) -> None:
        if checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
        self._agent = agent
        self._callbacks = _named(callbacks)
        self._checkpoint = checkpoint
        self._checkpoint_every = checkpoint_every
        self._started = time.perf_counter()
        self._stopped = False  # by a callback

    def run(self) -> None:
        """Pretrain and play until the agent's budget is spent, or a callback stops it."""
        agent = self._agent
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # these networks are too small to share among threads
        try:
            for name, callback in self._callbacks.items():
                if name in agent.callback_states:
                    callback.load_state_dict(agent.callback_states[name])
            agent.callback_states = {}
            self._tell("on_train_begin")
            if not self._stopped:
                self._pretrain()
            if not self._over:
                self._play()
            self._save()
        finally:
            torch.set_num_threads(threads)
            for callback in self._callbacks.values():
                callback.on_train_end(agent)

    @property
    def _over(self) -> bool:
        seconds = time.perf_counter() - self._started
        return self._stopped or self._agent.budget.spent(self._agent, seconds)

    def _tell(self, what: str, *about: Any) -> None:
        """Tell all callbacks; if one of them returns ``False``, the training is over."""
        answers = [getattr(c, what)(self._agent, *about) for c in self._callbacks.values()]
        self._stopped = self._stopped or any(
            isinstance(a, bool | np.bool_) and not a for a in answers
        )

    def _save(self) -> None:
        if self._checkpoint is not None:
            states = {name: callback.state_dict() for name, callback in self._callbacks.items()}
            self._agent.callback_states = {name: state for name, state in states.items() if state}
            self._agent.save(self._checkpoint)
            self._agent.callback_states = {}

    def _pretrain(self) -> None:
        """Fit one-step rewards, and put some of the data into the replay buffer."""
        agent = self._agent
        c, learner = agent.config, agent.learner
        if agent.epoch >= c.pretrain_epochs and (agent.step or len(learner.replay)):
            return
        if not (c.pretrain_epochs or agent.random_steps):
            if agent.normalises and not (agent.step or len(learner.replay)):
                warnings.warn(
                    "states and values are not normalised (normalise=True): training begins without"
                    " data, as pretrain_epochs and random_steps are 0. Set random_steps, such as"
                    " 1000, or normalise=False",
                    stacklevel=4,
                )
            return
        data = agent.pretraining_data()
        states, actions, wanted = (torch.from_numpy(column) for column in data[:3])
        if agent.epoch == 0:
            agent.normalise(data.states, data.rewards)
            if c.pretrain_epochs:
                learner.shift_level(float(wanted.mean()))
        while agent.epoch < c.pretrain_epochs:
            started = time.perf_counter()
            rate = c.pretrain_learning_rate * c.pretrain_learning_rate_decay**agent.epoch
            order = torch.from_numpy(agent.rng.permutation(len(wanted)))
            losses = [
                learner.fit(states[rows], actions[rows], wanted[rows], rate, agent.rng)
                for rows in torch.split(order, c.pretrain_batch_size)
            ]
            learner.begin_average()
            agent.epoch += 1
            done = agent.epoch == c.pretrain_epochs
            if done:
                learner.replay.add(*data.replayed)
            agent.pretrain_seconds += time.perf_counter() - started
            self._tell("on_pretrain_epoch", float(np.mean(losses)))
            if not done and self._interrupted:
                return
            if not done and agent.epoch % self._checkpoint_every == 0:
                self._save()
        if not c.pretrain_epochs:
            learner.replay.add(*data.replayed)
        learner.begin()
        self._save()

    @property
    def _interrupted(self) -> bool:
        """Whether pretraining is to end before it is done: the number of steps plays no part."""
        limit = self._agent.budget.seconds
        late = limit is not None and time.perf_counter() - self._started >= limit
        return self._stopped or late

    def _play(self) -> None:
        """Play episodes, with updates after every step, to the end of the training."""
        agent, player = self._agent, self._agent.player
        agent.running, played = player.resume(agent.running, agent.step)
        for lane, steps in enumerate(played):
            agent.learner.begin_episode(steps, lane)
        while not self._over:
            before = agent.step
            self._take_step()
            if agent.step // self._checkpoint_every > before // self._checkpoint_every:
                self._save()

    def _take_step(self) -> None:
        """Take a step, in all environments where several are played, and learn from each."""
        agent, learner, player = self._agent, self._agent.learner, self._agent.player
        started = time.perf_counter()
        states = player.states(agent.running)
        actions = learner.explore(states, agent.step, agent.episode, agent.rng)
        steps = player.step(actions)
        shared = (time.perf_counter() - started) / max(len(steps), 1)
        for lane, step in steps:
            started = time.perf_counter()
            running = agent.running[lane]
            learner.remember(step, lane)
            running.actions.append(step.action.tolist())
            running.reward += step.reward
            running.state = step.next_state.tolist()
            agent.step += 1
            for loss in learner.learn(agent.step, agent.episode, agent.rng):
                running.loss += loss
                running.updates += 1
            running.seconds += shared + time.perf_counter() - started
            if step.last:
                self._end_episode(lane)
            self._tell("on_step")

    def _end_episode(self, lane: int) -> None:
        agent = self._agent
        running, learner = agent.running[lane], agent.learner
        row = {
            "episode": agent.episode,
            "steps": len(running.actions),
            "reward": running.reward / len(running.actions),
            "epsilon": agent.epsilon,
            "loss": running.loss / max(running.updates, 1),
            "greedy_solves": learner.greedy.solves,
            "target_lookups": learner.target_greedy.lookups,
            "target_solves": learner.target_greedy.solves,
            "argmax_seconds": learner.greedy.seconds + learner.target_greedy.seconds,
            "seconds": running.seconds,
        }
        agent.history.append(row)
        agent.episode += 1
        agent.running[lane] = RunningEpisode(number=1 + max(r.number for r in agent.running))
        self._tell("on_episode_end", row)


def _named(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Return callbacks by the names of their classes, under which a checkpoint has their states."""
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"callbacks must be a list of Callback objects, got {_kind(callbacks)}")
    named: dict[str, Callback] = {}
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"a callback must be an object of a class derived from milp_rl.dqn.Callback, such"
                f" as one with on_step(self, agent), got {_kind(callback)}"
            )
        kind, number = type(callback).__name__, 1
        while (name := kind if number == 1 else f"{kind} {number}") in named:
            number += 1
        named[name] = callback
    return named


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
