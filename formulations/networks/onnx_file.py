"""Loading ONNX files: parsed, checked, with weights in other files only from the same folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import checker, helper

from milp_rl.formulations.networks.network import NetworkError

_FREE = 2**28  # bytes that any file may ask for
_TIMES = 16  # and this many times its own size: half precision in twos, transposed, cast


def load_model(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Load a model with its weights and check it.

    Parameters
    ----------
    source
        Path of a file, its bytes, or the loaded model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    NetworkError
        If it is not a valid ONNX model, or its weights are not where they may be.
    """
    folder: Path | None = None
    if isinstance(source, onnx.ModelProto):
        model, name = source, "the ONNX model"
    elif isinstance(source, bytes):
        name = "the ONNX model"
        model = _parsed(source, name)
    elif isinstance(source, str | Path):
        name, folder = str(source), Path(source).parent
        model = _parsed(_bytes_of(Path(source)), name)
    else:
        raise TypeError(f"expected a path, bytes or an ONNX model, got {type(source).__name__}")
    try:
        _load_external(model, folder)
        checker.check_model(model)
    except NetworkError as error:
        raise NetworkError(f"{name}: {error}") from error
    except Exception as error:  # ValidationError and whatever the parser has
        raise NetworkError(f"{name} is not a valid ONNX model: {error}") from error
    for function in model.functions:
        if function.domain in ("", "ai.onnx"):
            raise NetworkError(f"{name} redefines the operator {function.name}")
    return model


def external_files(path: str | Path) -> list[str]:
    """Return the names, relative to the file's folder, of the files that hold its weights."""
    model = _parsed(_bytes_of(Path(path)), str(path))
    found = {_location(tensor)["location"] for tensor in _external(model)}
    return sorted(str(name) for name in found)


def budget(model: onnx.ModelProto) -> int:
    """Return how many bytes the arrays made from a model may take, given its own size."""
    return int(_FREE + _TIMES * model.ByteSize())


def _bytes_of(path: Path) -> bytes:
    if path.is_dir():
        raise NetworkError(f"{path} is a folder, not an ONNX file")
    return path.read_bytes()


def _parsed(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise NetworkError(f"{name} is empty")
    try:
        return onnx.load_model_from_string(data)
    except Exception as error:  # the parser's own error type is not public
        raise NetworkError(f"{name} is not an ONNX model, or is truncated: {error}") from error


def _load_external(model: onnx.ModelProto, folder: Path | None) -> None:
    """Read weights from the other files into the model."""
    found = list(_external(model))
    if found and folder is None:
        raise NetworkError("its weights are in another file; give the path instead")
    files: dict[Path, int] = {}
    total = 0
    wanted = []
    for tensor in found:
        assert folder is not None
        entry = _location(tensor)
        path = _inside(folder, entry["location"])
        size = files.setdefault(path, path.stat().st_size)
        length = size - entry["offset"] if entry["length"] is None else entry["length"]
        if length != _declared(tensor) or not 0 <= entry["offset"] <= size - length:
            raise ValueError(
                f"the weight {tensor.name!r} of {_declared(tensor)} bytes"
                f" is not at byte {entry['offset']} of {entry['location']}, which has {size}"
            )
        total += length
        wanted.append((tensor, path, entry["offset"], length))
    if total > _FREE + _TIMES * sum(files.values()):
        raise NetworkError(f"its weights ask for {total:,} bytes, far more than its files have")
    for tensor, path, offset, length in wanted:
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file within a folder, or raise ``NetworkError``."""
    root = os.path.realpath(folder)
    path = os.path.realpath(Path(root, name))
    if Path(name).is_absolute() or os.path.commonpath([root, path]) != root:
        raise NetworkError(f"its weights are in {name!r}, outside its folder, which is not read")
    if not Path(path).is_file():
        raise NetworkError(f"its weights are in {name!r}, which is not in its folder")
    return Path(path)


def _location(tensor: onnx.TensorProto) -> dict[str, Any]:
    """Return ``location``, ``offset`` and ``length``, ``None`` for the rest of the file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = {"offset": entries.get("offset", "0"), "length": entries.get("length", "0")}
    if not entries.get("location") or not all(
        value.isascii() and value.isdigit() and len(value) < 19 for value in numbers.values()
    ):
        raise NetworkError(f"it does not say where the weight {tensor.name!r} is")
    length = int(numbers["length"]) if "length" in entries else None
    return {
        "location": entries["location"],
        "offset": int(numbers["offset"]),
        "length": length,
    }


def _declared(tensor: onnx.TensorProto) -> int:
    """Return the bytes that shape and type of a tensor ask for."""
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise NetworkError(f"the weight {tensor.name!r} is of no known type") from error
    if any(size < 0 for size in tensor.dims):
        raise NetworkError(f"the weight {tensor.name!r} has shape {tuple(tensor.dims)}")
    return int(math.prod(tensor.dims) * dtype.itemsize)


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor whose values are in another file."""
    graphs = [model.graph]
    nodes: list[Any] = [node for function in model.functions for node in function.node]
    tensors: list[onnx.TensorProto] = []
    while graphs or nodes:
        while graphs:
            graph = graphs.pop()
            tensors += graph.initializer
            for sparse in graph.sparse_initializer:
                tensors += [sparse.values, sparse.indices]
            nodes += graph.node
        for attribute in [a for node in nodes for a in node.attribute]:
            tensors += [attribute.t, *attribute.tensors]
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                tensors += [sparse.values, sparse.indices]
            graphs += [g for g in [attribute.g, *attribute.graphs] if g.node or g.initializer]
        nodes = []
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor
