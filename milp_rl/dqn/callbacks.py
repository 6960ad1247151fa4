"""Watching a training, and stopping it: what observers are told, and those that there are."""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milp_rl.formulations.files import write_atomically
from milp_rl.reports.tensorboard import summary_writer

if TYPE_CHECKING or find_spec("ipywidgets") is None:
    from tqdm import tqdm  # the other one warns of this in every notebook, bar or not
else:
    from tqdm.auto import tqdm

if TYPE_CHECKING:
    from milp_rl.dqn.agent import DQNAgent
    from milp_rl.dqn.validation import EvaluationCallback


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


class TensorBoardLogger(Callback):
    """Writes what ``agent.history`` has, and evaluations, as TensorBoard shows them.

    The axis is ``agent.num_timesteps``; epochs of pretraining are left of zero. Where training goes
    on from a checkpoint, what was written after it is replaced.

    Parameters
    ----------
    folder
        For the event files; ``tensorboard --logdir`` shows them. One folder per run.
    evaluation
        An evaluation among the callbacks, before this one, whose results are to be shown.

    Raises
    ------
    ImportError
        If TensorBoard is not installed (extra ``tensorboard``); in training.
    """

    def __init__(self, folder: str | Path, evaluation: EvaluationCallback | None = None) -> None:
        self.folder = Path(folder)
        self._evaluation = evaluation
        self._writer: Any = None

    def on_train_begin(self, agent: DQNAgent) -> None:
        """Open a file."""
        steps, epochs = agent.num_timesteps, agent.epoch - agent.config.pretrain_epochs
        now = steps if agent.step or epochs >= 0 else epochs
        self._writer = summary_writer(self.folder, purge_step=now + 1)

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Write the loss."""
        self._add(agent.epoch - agent.config.pretrain_epochs, {"pretrain/loss": loss})

    def on_step(self, agent: DQNAgent) -> None:
        """Write an evaluation, if there was one in this step."""
        rows = self._evaluation.rows if self._evaluation is not None else []
        if rows and rows[-1]["step"] == agent.num_timesteps:
            names = ("return", "steps")
            self._add(agent.num_timesteps, {f"eval/{name}": rows[-1][name] for name in names})

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Write the episode."""
        scalars = {
            "episode/return": record["reward"] * record["steps"],
            "episode/steps": record["steps"],
            "episode/seconds": record["seconds"],
            "train/epsilon": record["epsilon"],
            "train/loss": record["loss"],
            "argmax/seconds": record["argmax_seconds"],
            "argmax/target_lookups": record["target_lookups"],
            "argmax/target_solves": record["target_solves"],
        }
        self._add(agent.num_timesteps, scalars)

    def on_train_end(self, agent: DQNAgent) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run that is killed after its checkpoint has written what it has
