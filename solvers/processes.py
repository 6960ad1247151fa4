"""Starting processes that import nothing from the current folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def safe_path() -> Iterator[None]:
    """Let Python processes that are started meanwhile leave the current folder out of their path.

    Workers of joblib are started with ``-m``, which puts it first: a file of the name of a module,
    wherever one happens to be, would be run. The caller's path, which they are sent, is theirs
    afterwards.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
