"""Watching a training run: a bar, and a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from milp_rl.dqn.agent import Callback, DQNAgent
from milp_rl.formulations.files import write_atomically


class ProgressBar(Callback):
    """A tqdm bar for the pretraining epochs, then one for the episodes."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._phase = ""

    def _advance(self, phase: str, done: int, total: int, **numbers: str) -> None:
        if self._bar is None or self._phase != phase:
            self.on_train_end()
            self._bar = tqdm(total=total, initial=done - 1, desc=phase, dynamic_ncols=True)
            self._phase = phase
        self._bar.set_postfix(numbers, refresh=False)
        self._bar.update(done - self._bar.n)

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Advance the first bar."""
        total = agent.config.pretrain_epochs
        self._advance("pretraining", agent.epoch, total, loss=f"{loss:.4f}")

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Advance the second bar."""
        self._advance(
            "episodes",
            agent.episode,
            agent.config.episodes,
            reward=f"{record['reward']:.2f}",
            loss=f"{record['loss']:.3f}",
        )

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
