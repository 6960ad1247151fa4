"""How loops are compiled: once on each machine, and kept beside the source or in a user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any, TypeVar, cast

import numba

from milp_rl.formulations.time_limit import seconds_left

_F = TypeVar("_F", bound=Callable[..., Any])
_SECONDS_TO_COMPILE = 30.0  # on a machine that does other things


def compiled(function: _F) -> _F:
    """Compile a function of scalars, arrays and tuples of these when it is first called.

    It releases the interpreter lock, divides by zero as numpy does, and its indices are not
    checked. Of functions in other files it may call those of this folder alone: a change there
    compiles it anew.
    """
    return _compiled(function)


def compiled_freely(function: _F) -> _F:
    """Compile like :func:`compiled`, but let sums be added in any order, which is faster."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def _compiled(function: _F, **options: Any) -> _F:
    options = {"nogil": True, "error_model": "numpy", **options}
    loop = numba.njit(cache=True, **options)(function)
    kept: Any = getattr(getattr(loop, "_cache", None), "_cache_file", None)
    if not hasattr(kept, "_source_stamp"):  # not compiled at all, or kept in a way unknown here
        return cast(_F, numba.njit(**options)(function))
    # numba compares a function's own file alone; a caller kept from before a change of what it
    # calls would go on with the old code, and with the old layout of its arguments.
    kept._source_stamp = (kept._source_stamp, _KERNELS)
    return cast(_F, loop)


def is_in_time(
    function: Callable[..., Any],
    kind: type | None = None,
    *,
    to_fetch: float = 0.0,
    to_compile: float = _SECONDS_TO_COMPILE,
) -> bool:
    """Whether a compiled function can be called within the time limit, if there is one.

    That is where it was called before, or was compiled on this machine and need only be fetched.

    Parameters
    ----------
    function
        Compiled.
    kind
        Of one of its arguments, a named tuple, for each of which it is compiled anew.
    to_fetch, to_compile
        Seconds that the limit is to leave where it need only be fetched, or is to be compiled.
    """
    called = getattr(function, "signatures", None)
    if called is None:  # numba may be told to compile nothing
        return True
    if seconds_left() > to_compile or _has(called, kind):
        return True
    kept: Any = getattr(getattr(function, "_cache", None), "_cache_file", None)
    if seconds_left() < to_fetch or not hasattr(kept, "_load_index"):
        return False
    return _has([signature for signature, *_ in kept._load_index()], kind)


def _has(signatures: Iterable[Any], kind: type | None) -> bool:
    """Whether there is a signature, one with an argument of a kind if that is given."""
    if kind is None:
        return bool(signatures)
    return any(
        getattr(own, "instance_class", None) is kind for types in signatures for own in types
    )


def _digest_of_kernels() -> str:
    sources = sorted(resources.files(__package__).iterdir(), key=lambda file: file.name)
    texts = [file.read_bytes() for file in sources if file.name.endswith(".py")]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


_KERNELS = _digest_of_kernels()
