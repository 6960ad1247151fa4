"""Solves that a signal ends: Ctrl-C, or whatever a signal handler raises in the main thread.

Python runs signal handlers in the main thread, and only between its own instructions, so not while
that thread is inside a solver. A solver called through :func:`interruptible` therefore runs in
another thread while the main thread waits; what is raised there meanwhile stops the solver and is
raised to the caller. :func:`in_threads` does the same for solves side by side.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_WAIT = 0.2  # seconds between looks for signals, where waiting for a lock is not ended by them
_STOP_AGAIN = 0.02  # seconds until a solver that goes on is told again
_GRACE = 1.8  # seconds after which it is left to stop by itself
_AT_EXIT = 5.0  # seconds that a process waits for those left


class Interrupted(BaseException):
    """A solve was stopped because of what the main thread raised; its result is not used."""


class _Scope:
    """The solves that are stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: dict[int, Callable[[], None]] = {}
        self._stopped = False

    def call(self, solve: Callable[[], T], stop: Callable[[], None]) -> T:
        with self._lock:
            if self._stopped:
                raise Interrupted
            self._stops[threading.get_ident()] = stop
        try:
            result = solve()
        finally:
            with self._lock:
                del self._stops[threading.get_ident()]
        if self._stopped:
            raise Interrupted
        return result

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for stop in self._stops.values():
                stop()


class _Task:
    """A function that runs in another thread, and what it returned or raised."""

    def __init__(self, function: Callable[[], Any], scope: _Scope) -> None:
        self._function, self._scope = function, scope
        self.ended = False
        self._done = threading.Lock()
        self._done.acquire()
        self._result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        _local.scope = self._scope
        try:
            self._result = self._function()
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):  # a solver's own handler took the signal
                self._scope.stop()
        _local.scope = None
        self._done.release()

    def wait(self, seconds: float) -> bool:
        self.ended = self.ended or self._done.acquire(timeout=seconds)
        return self.ended

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self._result


class _Helper:
    """A thread that runs one task after another."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[_Task | None] = SimpleQueue()
        threading.Thread(target=self._work, name="milp-rl-solve", daemon=True).start()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            task.run()
            del task  # and what it solved


_local = threading.local()
_abandoned: list[_Task] = []
_helper: _Helper | None = None


def _without_helper() -> None:
    global _helper
    _helper = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_without_helper)  # it has no threads but the forking one


def interruptible(solve: Callable[[], T], stop: Callable[[], None]) -> T:
    """Call a solver; what is raised in the main thread meanwhile stops it.

    Called in the main thread, or below :func:`in_threads`; in other threads ``solve`` is called as
    it is. A solver that has not stopped 1.8 seconds later is left behind in its thread until it
    does: the caller must not use what ``solve`` uses again after an exception.

    Parameters
    ----------
    solve
        Calls the solver, and releases the interpreter lock meanwhile.
    stop
        Makes it stop soon, from another thread; called again until it has stopped.
    """
    global _helper
    scope: _Scope | None = getattr(_local, "scope", None)
    if scope is not None:
        return scope.call(solve, stop)
    if threading.current_thread() is not threading.main_thread():
        return solve()
    _take_back()
    scope = _Scope()
    task = _Task(lambda: scope.call(solve, stop), scope)
    helper = _helper = _helper or _Helper()
    helper.tasks.put(task)
    _wait_for([task], scope)
    result: T = task.result()
    return result


def in_threads(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Call functions side by side, one thread each; what is raised in this one stops their solves.

    Where functions raise, the error of the first of them is raised, after all have ended.
    """
    outer: _Scope | None = getattr(_local, "scope", None)
    scope = outer or _Scope()
    tasks = [_Task(function, scope) for function in functions]
    for task in tasks:
        threading.Thread(target=task.run, daemon=True).start()
    _wait_for(tasks, scope)
    errors = [task.error for task in tasks if task.error is not None]
    if errors:  # what stopped the others comes first
        raise min(errors, key=lambda error: isinstance(error, Interrupted))
    return [task.result() for task in tasks]


def _wait_for(tasks: Sequence[_Task], scope: _Scope) -> None:
    """Wait for tasks; where something is raised here meanwhile, stop their solves and raise it."""
    try:
        for task in tasks:
            while not task.wait(_WAIT):
                pass
    except BaseException:
        deadline = time.perf_counter() + _GRACE
        left = [task for task in tasks if not task.ended]
        while left and time.perf_counter() < deadline:
            scope.stop()
            left = [task for task in left if not task.wait(_STOP_AGAIN)]
        if left:
            _abandoned[:] = [task for task in (*_abandoned, *left) if not task.wait(0)]
            _without_helper()  # its thread ends with what it solves
        raise
    finally:
        _take_back()


def _take_back() -> None:
    """Let Ctrl-C reach Python again.

    Gurobi takes the signal while it solves, and then gives it to whoever had it. Of several that
    solve at once, the last may give it to another of them, which is long done.
    """
    if threading.current_thread() is threading.main_thread():
        own = signal.getsignal(signal.SIGINT)
        if own is not None:  # else no handler of Python's
            signal.signal(signal.SIGINT, own)


@atexit.register
def _wait_for_abandoned() -> None:
    """Let solves that were stopped end: a callback of one aborts a process that is ending."""
    deadline = time.perf_counter() + _AT_EXIT
    for task in _abandoned:
        task.wait(max(deadline - time.perf_counter(), 0))
