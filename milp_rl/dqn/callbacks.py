"""Watching a training, and stopping it: what observers are told, and those that there are."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from milp_rl.formulations.files import write_atomically

if TYPE_CHECKING:
    from milp_rl.dqn.agent import DQNAgent


class Callback:
    """Methods called while a :class:`milp_rl.dqn.DQNAgent` trains; override what you need.

    They may look at the agent but must not change it. One that returns ``False`` ends the training
    after the step, or epoch of pretraining, that it is told of, as in Stable-Baselines3.
    """

    def on_train_begin(self, agent: DQNAgent) -> bool | None:
        """Be told that training begins, or goes on from a checkpoint."""
        return None

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> bool | None:
        """Be told the mean loss of a pretraining epoch."""
        return None

    def on_step(self, agent: DQNAgent) -> bool | None:
        """Be told that a step of the environment, with its updates, is done."""
        return None

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> bool | None:
        """Be told the episode's row of ``agent.history``."""
        return None

    def on_train_end(self, agent: DQNAgent) -> None:
        """Be told that training has ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of this callback: tensors, numbers, strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state_dict`, before training goes on from a checkpoint."""


class ProgressBar(Callback):
    """A tqdm bar for the pretraining epochs, then one for the episodes, or steps, of the budget."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._phase = ""
        self._numbers: dict[str, str] = {}

    def _advance(self, phase: str, done: int, total: int | None) -> None:
        if self._bar is None or self._phase != phase:
            self.on_train_end()
            self._bar = tqdm(total=total, initial=done - 1, desc=phase, dynamic_ncols=True)
            self._phase = phase
        self._bar.set_postfix(self._numbers, refresh=False)
        self._bar.update(done - self._bar.n)

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Advance the first bar."""
        self._numbers = {"loss": f"{loss:.4f}"}
        self._advance("pretraining", agent.epoch, agent.config.pretrain_epochs)

    def on_step(self, agent: DQNAgent) -> None:
        """Advance the second bar, if the budget is of steps or seconds."""
        if agent.budget.episodes is None:
            self._advance("steps", agent.num_timesteps, agent.budget.steps)

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Advance the second bar, if the budget is of episodes."""
        self._numbers = {"reward": f"{record['reward']:.2f}", "loss": f"{record['loss']:.3f}"}
        if agent.budget.episodes is not None:
            self._advance("episodes", agent.episode, agent.budget.episodes)

    def on_train_end(self, agent: DQNAgent | None = None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class CSVLogger(Callback):
    """Writes ``agent.history`` to a CSV file after every episode, whole or not at all.

    Parameters
    ----------
    path
        The file; replaced if it exists. A resumed run's file has the rows before the checkpoint
        too.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Write the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(record), lineterminator="\n")
        writer.writeheader()
        writer.writerows(agent.history)
        write_atomically(self.path, text.getvalue().encode())
