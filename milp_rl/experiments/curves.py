"""Runs of ``milp-rl train`` that differ by their seeds, together in one chart."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milp_rl.evaluation.learning_curves import EVALUATIONS, Spread, plot_learning_curves
from milp_rl.experiments.training import SETTINGS
from milp_rl.formulations.files import read_json, write_atomically

_DEFAULT = "default"


def group_runs(folders: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Return runs that are the same but for their seeds together, by what they differ in.

    Parameters
    ----------
    folders
        Folders of :func:`milp_rl.experiments.training.run_training`.

    Returns
    -------
    dict
        The folders of each group, by the settings that are not those of every group, such as
        ``"n_step=3"``; of a single group, by the name of its agent.

    Raises
    ------
    ValueError
        If a folder has no evaluations yet.
    """
    groups: dict[str, list[Path]] = {}
    for folder in map(Path, folders):
        if not (folder / EVALUATIONS).exists() or not (folder / SETTINGS).exists():
            raise ValueError(f"{folder} has no evaluations of `milp-rl train` yet")
        settings = read_json(folder / SETTINGS)
        settings.pop("seed", None)
        inner = {**settings.pop("arguments", {}), **settings.pop("parameters", {})}
        key = json.dumps({**settings, **inner}, sort_keys=True)
        groups.setdefault(key, []).append(folder)
    settings_of = {key: json.loads(key) for key in groups}
    names = sorted({name for settings in settings_of.values() for name in settings})
    different = [
        name
        for name in names
        if len({json.dumps(s.get(name, _DEFAULT)) for s in settings_of.values()}) > 1
    ]

    def label(settings: dict[str, Any]) -> str:
        parts = [f"{name}={settings.get(name, _DEFAULT)}" for name in different]
        return ", ".join(parts) or str(settings.get("agent"))

    return {label(settings_of[key]): runs for key, runs in groups.items()}


def write_curves(
    folders: Sequence[str | Path], path: str | Path, *, spread: Spread = "error"
) -> None:
    """Draw the learning curves of runs; the file appears whole or not at all.

    Parameters
    ----------
    folders
        As for :func:`group_runs`.
    path
        File ``.png``, ``.svg`` or ``.pdf``.
    spread
        As for :func:`milp_rl.evaluation.plot_learning_curves`.

    Raises
    ------
    ValueError
        If a folder has no evaluations yet, or the kind of file is unknown.
    """
    kind = Path(path).suffix.lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"curves are drawn as .png, .svg or .pdf, got {Path(path).name!r}")
    figure = plot_learning_curves(group_runs(folders), spread=spread)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=150)
    write_atomically(path, drawn.getvalue())
