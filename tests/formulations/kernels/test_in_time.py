"""Whether there is time to compile."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.kernels.compiling import is_in_time
from milp_rl.formulations.time_limit import until


def test_what_is_not_compiled_at_all_is_in_time() -> None:
    with until(time.perf_counter() + 1.0):
        assert is_in_time(len)


class KindOne(NamedTuple):
    data: float


class KindTwo(NamedTuple):
    data: float


def kernel(called: list[type], kept: list[type]) -> SimpleNamespace:
    """A compiled function that was called with, and is kept for, some kinds of arguments."""

    def signatures(kinds: list[type]) -> list[tuple[object, ...]]:
        return [("float64", SimpleNamespace(instance_class=kind)) for kind in kinds]

    index = [(own, "this machine") for own in signatures(kept)]
    file = SimpleNamespace(_load_index=lambda: index)
    return SimpleNamespace(signatures=signatures(called), _cache=SimpleNamespace(_cache_file=file))


@pytest.mark.parametrize(
    ("limit", "called", "kept", "in_time"),
    [
        (None, [], [], True),
        (60.0, [], [], True),
        (5.0, [], [], False),
        (5.0, [KindOne], [], True),
        (5.0, [], [KindOne], True),
    ],
)
def test_what_was_compiled_or_has_half_a_minute_is_in_time(
    limit: float | None, called: list[type], kept: list[type], in_time: bool
) -> None:
    with until(float("inf") if limit is None else time.perf_counter() + limit):
        assert is_in_time(kernel(called, kept)) == in_time  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "called", "kept", "in_time"),
    [
        (3.0, [KindOne], [], True),
        (3.0, [KindTwo], [KindTwo], False),
        (3.0, [], [KindOne], False),
        (9.0, [], [KindOne], True),
        (9.0, [KindTwo], [KindTwo], False),
        (60.0, [KindTwo], [], False),
        (130.0, [], [], True),
    ],
)
def test_a_kind_of_argument_is_compiled_or_fetched_where_the_limit_leaves_time(
    limit: float, called: list[type], kept: list[type], in_time: bool
) -> None:
    own = kernel(called, kept)
    with until(time.perf_counter() + limit):
        found = is_in_time(own, KindOne, to_fetch=5.0, to_compile=120.0)  # type: ignore[arg-type]
    assert found == in_time


def test_what_numba_keeps_is_known() -> None:
    space = mr.BudgetTopK(9, 3)
    network = mr.Network.from_arrays([np.ones((1, 9))], [np.zeros(1)])
    mr.ArgmaxSolver(network, space, solver="branch_and_bound").prepare()
    from milp_rl.solvers.branch_and_bound.kernels import probe

    with until(time.perf_counter() + 1.0):
        assert is_in_time(probe, type(space.compiled_oracle))
        if not hasattr(probe, "signatures"):
            pytest.skip("numba is told to compile nothing")
        assert not is_in_time(probe, KindOne)
    fetched = SimpleNamespace(signatures=[], _cache=probe._cache)
    with until(time.perf_counter() + 1.0):
        assert is_in_time(fetched, type(space.compiled_oracle))  # type: ignore[arg-type]
        assert not is_in_time(fetched, KindOne)  # type: ignore[arg-type]
