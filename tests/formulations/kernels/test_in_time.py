"""Whether there is time to compile."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from milp_rl.formulations.kernels.compiling import is_in_time
from milp_rl.formulations.time_limit import until


def test_what_is_not_compiled_at_all_is_in_time() -> None:
    with until(time.perf_counter() + 1.0):
        assert is_in_time(len)


@pytest.mark.parametrize(
    ("limit", "signatures", "kept", "in_time"),
    [
        (None, [], False, True),
        (60.0, [], False, True),
        (5.0, [], False, False),
        (5.0, ["(float64)"], False, True),
        (5.0, [], True, True),
    ],
)
def test_what_was_compiled_or_has_half_a_minute_is_in_time(
    tmp_path: Path, limit: float | None, signatures: list[str], kept: bool, in_time: bool
) -> None:
    index = tmp_path / "index.nbi"
    if kept:
        index.touch()
    file = SimpleNamespace(_index_path=str(index))
    kernel = SimpleNamespace(signatures=signatures, _cache=SimpleNamespace(_cache_file=file))
    with until(float("inf") if limit is None else time.perf_counter() + limit):
        assert is_in_time(kernel) == in_time  # type: ignore[arg-type]
