"""Files that hold everything a :class:`milp_rl.dqn.DQNAgent` is made of.

They are read with ``torch.load(weights_only=True)`` only: they hold tensors, numbers and strings,
and reading one cannot run code.

Files of format 7 and later load in every later version, and act and learn as they did: a file has
all parameters of its run, whatever the defaults are now; one that it lacks, since there was none of
that name, takes the value in ``AS_BEFORE`` that means what was done then.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milp_rl.dqn.config import DQNConfig
from milp_rl.envs.fixed_set import difference
from milp_rl.formulations.files import write_atomically

_NAME, FORMAT = "milp_rl.dqn", 11

AS_BEFORE: dict[str, Any] = {
    "architecture": "concat",
    "audit": 0.0,
    "average_decay": 0.0,
    "encoder": (64, 64),
    "head": (32,),
    "critics": 1,
    "engine": "compact",
    "critics_reduce": "min",
    "normalise": False,
}
"""Parameters added after format 7, and the value of each with which all is as it was without it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes
    ----------
    config
        The parameters of the run.
    setup
        What else makes it the run that it is, such as seed and action space.
    state
        How far it has come.
    """

    config: DQNConfig
    setup: Mapping[str, Any]
    state: dict[str, Any]

    def check_same_run(self, path: str | Path, config: DQNConfig, setup: Mapping[str, Any]) -> None:
        """Refuse to go on with a run that was begun with other parameters or another setup.

        The number of episodes may be another one, as nothing depends on it but when the run is
        over, and ``early_gap``.

        Raises
        ------
        ValueError
            If they differ.
        """
        mine, its = ({**asdict(c), **s} for c, s in ((config, setup), (self.config, self.setup)))
        different = sorted(key for key in {*mine, *its} if mine.get(key) != its.get(key))
        if different == ["episodes"] and config.early_gap is None:
            return
        if different == ["episodes"]:
            raise ValueError(
                f"{path} belongs to a run of {self.config.episodes} episodes, and early_gap is for"
                f" the first half of them: with {config.episodes} it would have been another run."
                " Delete it to start afresh, or give another path"
            )
        if different:
            told = [
                f"{what} was {before}, now {now}"
                for key in different
                for what, now, before in [difference(mine.get(key), its.get(key), key)]
            ]
            raise ValueError(
                f"{path} belongs to another run: {'; '.join(told)}. Give another path to start"
                " afresh, or what it was made with to go on"
            )


def write_checkpoint(
    path: str | Path, config: DQNConfig, setup: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write a run's parameters, setup and state; the file appears whole or not at all."""
    buffer = io.BytesIO()
    about = {"config": asdict(config), **setup}
    torch.save({"format": f"{_NAME}/{FORMAT}", "setup": about, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def read_tensors(path: str | Path) -> Any:
    """Return what ``torch.save`` wrote of tensors, numbers and texts; no code in it is run.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If it is none of these, or damaged.
    """
    try:
        return torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds, and advises to run the code in the file
        raise ValueError(
            f"{path} has no tensors that can be read without running code in it, or is damaged:"
            " give another file, or train again"
        ) from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], whose: str | Path) -> None:
    """Put weights into a network; raise ``ValueError`` with whose they are if they do not fit."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:  # other names, shapes; no weights
        said = str(error).partition("\n")[2].strip() or str(error)
        raise ValueError(f"{whose} has the weights of another network: {said}") from error


def read_checkpoint(path: str | Path, config_class: type[DQNConfig]) -> Checkpoint:
    """Return what a file of this version or an earlier one holds.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If it is damaged, no checkpoint, of a later version, or of parameters of another class.
    """
    content = read_tensors(path)
    named = str(content.get("format")) if isinstance(content, dict) else ""
    matched = re.fullmatch(rf"{re.escape(_NAME)}/(\d+)", named)
    if matched is None:
        raise ValueError(f"{path} is not a checkpoint of a milp_rl.dqn agent")
    number = int(matched[1])
    if number > FORMAT:
        raise ValueError(
            f"{path} was written by a later version of milp-rl, in format {number}; this one reads"
            f" {min(_MIGRATIONS)} to {FORMAT}: read it with that version"
        )
    if number < min(_MIGRATIONS):
        raise ValueError(
            f"{path} has format {number}, of before the first release, which is no longer read;"
            " train again"
        )
    for old in range(number, FORMAT):
        content = _MIGRATIONS[old](content)
    setup = dict(content.pop("setup"))
    return Checkpoint(_config(path, setup.pop("config"), config_class), setup, content)


def _config(path: str | Path, stored: dict[str, Any], config_class: type[DQNConfig]) -> DQNConfig:
    names = {f.name for f in fields(config_class)}
    unknown = sorted(stored.keys() - names)
    if unknown:
        raise ValueError(
            f"{path} has parameters that {config_class.__name__} does not have:"
            f" {', '.join(unknown)}. It is of another kind of agent, or of a later version"
        )
    added = {name: AS_BEFORE[name] for name in names - stored.keys() if name in AS_BEFORE}
    return config_class(**added, **stored)


def _from_7(content: dict[str, Any]) -> dict[str, Any]:
    """Give the parameters a place of their own."""
    config = dict(content["setup"])
    others = ("seed", "action space", "network", "dependency graph")
    setup = {key: config.pop(key) for key in others if key in config}
    return {**content, "setup": {"config": config, **setup}}


def _from_8(content: dict[str, Any]) -> dict[str, Any]:
    """Let there be more than one running episode."""
    return {**content, "running": [{"number": content["episode"], **content["running"]}]}


def _from_9(content: dict[str, Any]) -> dict[str, Any]:
    """Let the state be unknown that a running episode had come to."""
    return {**content, "running": [{"state": None, **episode} for episode in content["running"]]}


def _from_10(content: dict[str, Any]) -> dict[str, Any]:
    """Let the policy have weights of its own: those that there are."""
    learner = content["learner"]
    own = {"averaged": learner["network"], "averaged_greedy": learner["greedy"]}
    return {**content, "learner": {**learner, **own, "steps averaged": 0}}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    7: _from_7,
    8: _from_8,
    9: _from_9,
    10: _from_10,
}
