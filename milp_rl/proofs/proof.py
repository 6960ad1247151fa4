r"""A proof that no feasible action is above a bound, as a value and as a file.

The file is a numpy archive (``.npz``) of these arrays:

``format``
    ``"milp-rl proof 2"``.
``network``
    SHA-256 of the network's weights (:func:`network_hash`).
``space``
    The feasible set as JSON, as :meth:`.ActionSpace.to_dict` gives it.
``sense``
    ``"maximize"`` or ``"minimize"``.
``state``, ``action``, ``value``, ``bound``
    The claim: no feasible action has a higher value than the bound (lower, if minimised), and that
    of ``action`` is no lower than ``value`` (higher).
``splits``
    The tree, in preorder: -1 for a leaf, else what the node is divided by, a variable by its
    number, the auxiliary ones of the set's rows after the actions (:mod:`.sets`), or a neuron by
    its number among all plus the number of variables. A variable is divided in the middle of its
    bounds there, between whole numbers if it is whole. First comes the part where it is larger (an
    action 1, a neuron on), then the other one.
``slopes``, ``multipliers``
    Of each leaf, in their order in the tree: lower slopes of the neurons, and multipliers of the
    neurons that it holds on or off, shape (leaves, neurons). Any slopes in [0, 1], and any
    multipliers with the sign of the split, give a bound; these give one that is good enough.
``duals``
    Of each leaf, dual values of the set's rows for the output, shape (leaves, rows), 0 where those
    that the check finds by itself do.
``reasons``
    Of each leaf, what closes it: 0 its bound, 1 that it is empty, as a row of the feasible set
    cannot be met or a neuron not be as it is held, 2 that the actions it holds are not feasible.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray, IntArray
from milp_rl.formulations.files import write_atomically
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace

FORMAT = "milp-rl proof 2"
BOUND, EMPTY, VIOLATION = range(3)
Sense = Literal["maximize", "minimize"]

_NOT_READ = (
    *(ValueError, TypeError, KeyError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
_TEXTS = ("network", "space", "sense")
_NUMBERS = ("value", "bound")
_ARRAYS: dict[str, tuple[Any, ...]] = {  # dimensions and types
    "state": (1, "float64"),
    "action": (1, "int8", "int64", "float64"),
    "splits": (1, "int32"),
    "slopes": (2, "float32"),
    "multipliers": (2, "float32"),
    "duals": (2, "float32"),
    "reasons": (1, "int8"),
}


@dataclass(frozen=True, eq=False)
class Proof:
    """What :func:`milp_rl.proofs.check` checks; the module's docstring says what each part is."""

    network: str
    space: str
    sense: str
    state: FloatArray
    action: ActionArray
    value: float
    bound: float
    splits: IntArray
    slopes: NDArray[np.float32]
    multipliers: NDArray[np.float32]
    duals: NDArray[np.float32]
    reasons: NDArray[np.int8]

    def malformed(self) -> str:
        """Say what is not of its type, an empty text if everything is."""
        for name, (dimensions, *kinds) in _ARRAYS.items():
            own = getattr(self, name)
            if not isinstance(own, np.ndarray) or own.dtype.name not in kinds:
                return f"{name} is of type {getattr(own, 'dtype', type(own).__name__)}"
            if own.ndim != dimensions:
                return f"{name} has {own.ndim} dimensions, not {dimensions}"
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                return f"{name} is no text"
        if self.sense not in ("maximize", "minimize"):
            return f"the sense is {self.sense!r}"
        for name in _NUMBERS:
            own = getattr(self, name)
            if not isinstance(own, int | float) or not math.isfinite(own):
                return f"the {name} is {own!r}, no finite number"
        return ""

    def its_space(self) -> ActionSpace:
        """Return the feasible set that the proof says it is of.

        Raises
        ------
        ValueError
            If that is no feasible set.
        """
        try:
            return ActionSpace.from_dict(json.loads(self.space))
        except RecursionError as error:
            raise ValueError("the proof's feasible set is nested too deeply") from error
        except ValueError as error:
            raise ValueError(f"the proof's feasible set: {error}") from error

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        parts: dict[str, Any] = {"format": np.array(FORMAT)}
        parts |= {name: np.array(getattr(self, name)) for name in _TEXTS}
        parts |= {name: np.float64(getattr(self, name)) for name in _NUMBERS}
        parts |= {name: getattr(self, name) for name in _ARRAYS}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **parts)
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Proof:
        """Read a file.

        Raises
        ------
        ValueError
            If it is no proof, or of another version, naming the file and what is wrong.
        """
        if Path(path).is_file() and not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no proof: it is no .npz file, or the end is missing")
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in file.files}
        except _NOT_READ as error:
            raise ValueError(f"{path} is no proof: {error}") from error
        found = str(parts.get("format", "none"))
        if found != FORMAT:
            raise ValueError(f"{path} is no proof of the format {FORMAT!r}: its format is {found}")
        missing = {*_TEXTS, *_NUMBERS, *_ARRAYS} - set(parts)
        if missing:
            raise ValueError(f"{path} is no proof: it has no {', '.join(sorted(missing))}")
        known: dict[str, Any] = {name: parts[name] for name in _ARRAYS}
        known |= {name: str(parts[name]) for name in _TEXTS}
        try:
            known |= {name: float(parts[name]) for name in _NUMBERS}
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no proof: {error}") from error
        proof = cls(**known)
        if broken := proof.malformed():
            raise ValueError(f"{path} is no proof: {broken}")
        return proof


def network_hash(network: Network) -> str:
    """Return the SHA-256 of all weights and biases, their shapes and where they lead."""
    digest = hashlib.sha256(network.link.encode())
    for depth, layer in enumerate(network.layers):
        for source, weight in (*network.inputs(depth), (None, layer.bias)):
            digest.update(f"{depth} {source} {weight.shape}".encode())
            digest.update(np.ascontiguousarray(weight, dtype="<f8").tobytes())
    return digest.hexdigest()


def space_text(description: dict[str, object]) -> str:
    """Return a space's description as the JSON that proofs have of it."""
    return json.dumps(description, sort_keys=True)
