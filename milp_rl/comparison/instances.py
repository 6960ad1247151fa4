"""The instances of a comparison: folders with ``q.onnx``, ``space.json`` and ``states.csv``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milp_rl.comparison.states import read_states
from milp_rl.formulations.files import read_json
from milp_rl.formulations.networks.onnx_file import external_files

NETWORK, SPACE, STATES = "q.onnx", "space.json", "states.csv"


@dataclass(frozen=True)
class Instance:
    """A folder of an instance, checked."""

    name: str
    folder: Path
    n_states: int
    header: bool | None = None

    def kind(self) -> str:
        """Return the kind of feasible set: its type, or those of its parts."""
        return _kind(read_json(self.folder / SPACE))

    def digest(self) -> str:
        """Hash what is solved: the network, the space and the states."""
        total = hashlib.sha256(str(self.header).encode())
        for name in (NETWORK, *external_files(self.folder / NETWORK), SPACE, STATES):
            total.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return total.hexdigest()


def find_instances(folder: str | Path, *, header: bool | None = None) -> list[Instance]:
    """Find the instances in a folder: itself, or its subfolders, in the order of their names.

    Parameters
    ----------
    folder
        Where to look.
    header
        Whether the files of states have a header, see
        :func:`~milp_rl.comparison.states.read_states`.

    Raises
    ------
    ValueError
        If there is none, or one is incomplete or cannot be read.
    """
    root = Path(folder)
    places = [path.parent for path in sorted(root.glob(f"*/{NETWORK}"))]
    if (root / NETWORK).exists():
        places = [root]
    if not places:
        raise ValueError(f"{root} has no instance: a folder with {NETWORK}, {SPACE} and {STATES}")
    found = []
    for place in places:
        for name in (SPACE, STATES):
            if not (place / name).exists():
                raise ValueError(f"the instance {place} has no {name}")
        states = read_states(place / STATES, header=header)
        found.append(Instance(place.resolve().name, place, len(states), header))
    return found


def _kind(data: Any) -> str:
    """Name a feasible set as JSON has it by the types of its blocks, each once."""
    sign = {"Intersection": " & ", "Union": " | ", "Product": " * "}.get(data["type"])
    if sign is None:
        return str(data["type"])
    parts = dict.fromkeys(map(_kind, data["members"]))
    joined = sign.join(f"({part})" if " " in part else part for part in parts)
    return joined if len(parts) > 1 else f"{data['type']} of {joined}"
