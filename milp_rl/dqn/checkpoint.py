"""Files that hold everything a :class:`milp_rl.dqn.DQNAgent` is made of.

They are read with ``torch.load(weights_only=True)`` only: they hold tensors, numbers and strings,
and reading one cannot run code.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from milp_rl.formulations.files import write_atomically

_FORMAT = "milp_rl.dqn/7"


def write_checkpoint(path: str | Path, setup: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a run's setup, and the state it is in; the file appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, "setup": setup, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the setup and the state in a file.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If it is damaged, or not a checkpoint of this version.
    """
    try:
        content = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{path} is not a checkpoint, or damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version ({_FORMAT})")
    return content["setup"], content


def read_state(path: str | Path, setup: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in a file of the run that has this setup.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If it is damaged, or of another configuration, seed or action space.
    """
    its, state = read_checkpoint(path)
    different = sorted(key for key in {*setup, *its} if setup.get(key) != its.get(key))
    if different:
        raise ValueError(
            f"{path} belongs to another run: {', '.join(different)} differ; delete it to start"
            " afresh, or give another path"
        )
    return state
