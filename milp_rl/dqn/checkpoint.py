"""Storing and restoring everything a :class:`milp_rl.dqn.DQNAgent` is made of.

Checkpoints are read with ``torch.load(weights_only=True)`` only: they hold tensors, numbers and
strings, and reading one cannot run code.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from milp_rl.formulations.files import write_atomically

if TYPE_CHECKING:
    from milp_rl.dqn.agent import DQNAgent

_FORMAT = "milp_rl.dqn/6"
_COUNTERS = ("epoch", "episode", "step", "pretrain_seconds")


def save(agent: DQNAgent, path: str | Path) -> None:
    """Write the agent to ``path``; the file appears whole or not at all."""
    content: dict[str, Any] = {
        "format": _FORMAT,
        "setup": agent.setup,
        "learner": agent.learner.state_dict(),
        "rng": agent.rng.bit_generator.state,
        "history": agent.history,
        "running": asdict(agent.running),
    }
    content |= {name: getattr(agent, name) for name in _COUNTERS}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read_setup(path: str | Path) -> dict[str, Any]:
    """Return the setup of a checkpoint's agent."""
    setup: dict[str, Any] = _read(path)["setup"]
    return setup


def restore(agent: DQNAgent, path: str | Path) -> None:
    """Give the agent the state in the file.

    Raises
    ------
    ValueError
        If the file is damaged, or of another configuration, seed or action space.
    """
    content = _read(path)
    own, its = agent.setup, content["setup"]
    different = sorted(key for key in {*own, *its} if own.get(key) != its.get(key))
    if different:
        raise ValueError(
            f"{path} belongs to another run: {', '.join(different)} differ; delete it to start"
            " afresh, or give another path"
        )
    agent.rng.bit_generator.state = content["rng"]
    agent.history = content["history"]
    agent.running = type(agent.running)(**content["running"])
    for name in _COUNTERS:
        setattr(agent, name, content[name])
    agent.learner.load_state_dict(content["learner"])


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{path} is not a checkpoint, or damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version ({_FORMAT})")
    return content
