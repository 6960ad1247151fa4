"""Turning what a user has, a scikit-learn model, into a `TreeEnsemble`."""

from __future__ import annotations

from typing import Any

from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_sklearn import is_sklearn_trees, read_sklearn_trees


def read_trees(source: Any, *, output: int | None = None) -> TreeEnsemble | None:
    """Return the tree ensemble that ``source`` describes, ``None`` if it is something else.

    Parameters
    ----------
    source
        A :class:`TreeEnsemble` (returned as it is), or a fitted tree model of scikit-learn.
    output
        Which one to take of several outputs.

    Raises
    ------
    NetworkError
        If it is a tree model, but not one that is supported; the message says why.
    """
    if isinstance(source, TreeEnsemble):
        return source
    if is_sklearn_trees(source):
        return read_sklearn_trees(source, output=output)
    return None
