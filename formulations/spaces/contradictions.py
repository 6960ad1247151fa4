"""Noticing a block whose methods contradict each other, before a solver is blamed for it.

``violations``, ``constrain``, ``linear_max`` and ``sample`` of a block describe one feasible set
four times. :func:`check_consistent` compares them on actions of the set and on their neighbours,
once per space, as far as a time limit lets it; :func:`refusal` compares the first two at an answer.
"""

from __future__ import annotations

import highspy
import numpy as np

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.milp.highs import new_highs, pass_model, run
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import is_late, seconds_left

_CLEAR = 1e-6  # beyond a row, relative to what it sums, an action is outside; within a part of it
_MET = 1e-3  # the row is met
_DIRECTIONS = 8  # random objectives for `linear_max`
_SHARES_BEYOND = (0.1, 0.5, 2.0)  # of the step from another action, beyond this one
_MOST_NEIGHBOURS = 64
_MOST_COMPLETED = 4  # actions of either kind, where auxiliary variables must be filled in
_LARGEST_COMPLETED = 2000  # columns
_SECONDS = 0.5  # for values of the auxiliary variables
_SECONDS_TO_COMPILE = 1e-4  # the constraints, per variable
_LISTED = 64  # of listed actions are checked


class ContradictionError(RuntimeError):
    """A block's own methods disagree about which actions are feasible."""


def check_consistent(space: ActionSpace, sample: ActionArray) -> None:
    """Compare what the methods of a space say about some actions.

    Parameters
    ----------
    space
        The feasible set.
    sample
        What its ``sample`` has drawn, shape (any, n_actions).

    Raises
    ------
    ContradictionError
        Naming the block, the method and the action.
    """
    for action in sample:
        if is_late():
            return
        if found := space.violations(action):
            raise ContradictionError(
                f"{_name(space)}: `sample` draws {shown(space, action)}, which `violations`"
                f" refuses: {'; '.join(found)}"
            )
    if not len(sample) or seconds_left() < _SECONDS_TO_COMPILE * space.n_actions:
        return
    few = space.linear_model.n_columns > space.n_actions
    n = _MOST_COMPLETED if few else len(sample)
    if not space.continuous.all():
        rng = np.random.default_rng(0)
        drawn = sample[rng.integers(len(sample), size=_MOST_NEIGHBOURS)]
        turned = _turned(space, drawn, rng)
        outside = [action for action in turned if not is_late() and space.violations(action)]
        told = _told_apart(space, sample[:n], np.array(outside[:n], dtype=space.dtype))
        for action in told:
            if is_late():
                return
            refusal(space, action)
    if space.continuous.any():
        for action in _beyond(space, sample)[:n]:
            refusal(space, action)
    if not is_late():
        _check_linear_max(space, sample)


def _told_apart(space: ActionSpace, inside: ActionArray, outside: ActionArray) -> list[ActionArray]:
    """Return those of actions inside and outside that rows do not clearly tell apart so."""
    if not space.binary or space.linear_model.n_columns > space.n_actions or not len(outside):
        return [*inside, *outside]
    met = row_excess(space, inside) <= _CLEAR * _MET
    missed = _excess(space, outside, _units(space, np.ones(space.linear_model.n_rows))) > _CLEAR
    missed &= row_excess(space, outside) > _CLEAR
    return [*inside[~met], *outside[~missed]]


def check_listed(space: ActionSpace, actions: ActionArray, known: ActionArray) -> None:
    """Compare what a space lists with its own check and with actions that it draws.

    Raises
    ------
    ContradictionError
        Naming the block and the action.
    """
    picked = np.unique(np.linspace(0, len(actions) - 1, _LISTED).astype(int))[: len(actions)]
    for action in actions[picked]:
        if found := space.violations(action):
            raise ContradictionError(
                f"{_name(space)}: `enumerate` lists {shown(space, action)}, which `violations`"
                f" refuses: {'; '.join(found)}"
            )
    neighbours = _turned(space, actions[picked], np.random.default_rng(0))
    wanted = {action.tobytes(): action for action in (*known, *neighbours)}
    for action in actions:
        wanted.pop(action.tobytes(), None)
    for action in wanted.values():
        if not space.violations(action):
            raise ContradictionError(
                f"{_name(space)}: `enumerate` leaves out {shown(space, action)}, which `violations`"
                " accepts"
            )


def called_empty(
    space: ActionSpace, known: ActionArray, pins: Pins | None = None
) -> ContradictionError:
    """Say that ``linear_max`` finds no action where there is one, under one row of pins."""
    within = f" within the masks ({pins})" if pins is not None and not pins.empty else ""
    return ContradictionError(
        f"linear_max of {_name(space)} says that the set{within} is empty, but"
        f" {shown(space, known)} is feasible"
    )


def _turned(space: ActionSpace, actions: ActionArray, rng: np.random.Generator) -> ActionArray:
    """Return actions with one entry each, at random, turned if binary, or one up or down."""
    found = actions.copy()
    each = np.arange(len(found))
    turned = rng.choice(np.flatnonzero(~space.continuous), size=len(found))
    steps = 1 - 2 * (found[each, turned] > 0)
    moved = space.integer[turned]
    if moved.any():
        steps = np.where(moved, rng.choice([-1, 1], size=len(found)), steps)
    found[each, turned] += steps.astype(found.dtype)
    return found


def _beyond(space: ActionSpace, sample: ActionArray) -> ActionArray:
    """Move continuous actions of a set away from others of it, mostly out of the set."""
    rng = np.random.default_rng(0)
    here, there = sample[rng.integers(len(sample), size=(2, _MOST_NEIGHBOURS))]
    share = rng.choice(_SHARES_BEYOND, size=(_MOST_NEIGHBOURS, 1))
    return np.asarray(here + np.where(space.continuous, share * (here - there), 0.0))


def _check_linear_max(space: ActionSpace, sample: ActionArray) -> None:
    """Check that no action drawn is above what ``linear_max`` says."""
    c = np.random.default_rng(0).standard_normal((_DIRECTIONS, space.n_actions))
    values = c @ sample.T
    reached, bound = values.max(axis=1), space.linear_max(c)
    wrong = np.flatnonzero(~(reached <= bound + _CLEAR * (1 + np.abs(c).sum(axis=1))))
    if len(wrong):
        i = wrong[0]
        action = sample[values[i].argmax()]
        if np.isneginf(bound[i]):
            raise called_empty(space, action)
        raise ContradictionError(
            f"{_name(space)}: the feasible action {shown(space, action)} reaches {reached[i]:g}"
            f" where `linear_max` says {bound[i]:g}; is `linear_max` of {_name(space)} an upper"
            " bound?"
        )


def refusal(space: ActionSpace, action: ActionArray, *, complete: bool = True) -> str:
    """Check an action by ``violations`` and by the constraints that the space writes.

    Parameters
    ----------
    space
        The feasible set.
    action
        Of the space's dtype.
    complete
        Whether to look for values of auxiliary variables, which takes a solver; otherwise the
        constraints of a space that has such variables are not looked at.

    Returns
    -------
    str
        Empty if the action is feasible.

    Raises
    ------
    ContradictionError
        If the two disagree, naming the block and the action.
    """
    found = space.violations(action)
    written = accepted(space, action, complete=complete)
    if written is None or written == (not found):
        return "; ".join(found)
    for member, part in space.parts():
        if member is not space:
            refusal(member, action[part].astype(member.dtype), complete=complete)
    said = "`constrain` allows it" if written else "`constrain` forbids it"
    checked = f"`violations` refuses it ({'; '.join(found)})" if found else "`violations` does not"
    raise ContradictionError(
        f"{_name(space)} contradicts itself about the action {shown(space, action)}: {said},"
        f" {checked}"
    )


def accepted(space: ActionSpace, action: ActionArray, *, complete: bool = True) -> bool | None:
    """Whether the constraints that the space writes allow an action; ``None`` if unclear."""
    model, n = space.linear_model, space.n_actions
    x = np.asarray(action, dtype=np.float64)
    lower, upper = model.column_lower[:n], model.column_upper[:n]
    beyond = np.maximum(lower - x, x - upper)
    size = np.maximum(1.0, np.maximum(np.abs(lower), np.abs(upper)))
    beyond /= np.where(space.continuous, size, 1.0)
    if (beyond > _CLEAR).any():
        return False
    if model.n_columns == n:
        excess = row_excess(space, x[None])[0]
        if excess <= _CLEAR * _MET:
            sums = model.matrix @ x  # of large whole numbers, one more is little
            above = np.maximum(sums - model.row_upper, model.row_lower - sums).max(initial=0.0)
            return None if above > _CLEAR and not space.continuous.any() else True
        # A check by a tolerance may let pass what is beyond a row of small numbers.
        units = _units(space, np.ones(model.n_rows))
        clear = excess > _CLEAR and _excess(space, x[None], units)[0] > _CLEAR
        return False if clear or (space.binary and excess > _CLEAR) else None
    if not complete or model.n_columns > _LARGEST_COMPLETED:
        return None
    highs = new_highs()
    pass_model(highs, model)
    highs.setOptionValue("time_limit", max(min(_SECONDS, seconds_left()), 0.0))
    highs.changeColsBounds(n, np.arange(n, dtype=np.int32), x, x)
    status = run(highs)
    if status == highspy.HighsModelStatus.kInfeasible:
        return False
    return True if status == highspy.HighsModelStatus.kOptimal else None


def row_excess(space: ActionSpace, actions: ActionArray) -> FloatArray:
    """Return how far actions are beyond the rows of a space without auxiliary variables.

    Returns
    -------
    numpy.ndarray
        Shape (actions,), relative to the largest term of a row or its side; not positive where all
        rows are met.
    """
    model = space.linear_model
    sides = np.where(np.isfinite(model.row_upper), model.row_upper, model.row_lower)
    return _excess(space, actions, _units(space, np.abs(sides)))


def row_distance(space: ActionSpace, actions: ActionArray) -> FloatArray:
    """Return how far actions must at least be moved to meet each row alone.

    In continuous variables, where a row has some; as row_excess.
    """
    model, n = space.linear_model, space.n_actions
    moved = np.flatnonzero(space.continuous & (space.lower < space.upper))
    by_moved = abs(model.matrix[:, :n][:, moved]).max(axis=1).toarray().ravel() if len(moved) else 0
    return _excess(space, actions, np.where(by_moved > 0, by_moved, model.largest_coefficients))


def _excess(space: ActionSpace, actions: ActionArray, scale: FloatArray) -> FloatArray:
    """Return the largest excess over a row, in the units given of each."""
    model = space.linear_model
    if not model.n_rows:
        return np.full(len(actions), -np.inf)
    sums = model.matrix @ np.asarray(actions, dtype=np.float64).T
    excess = np.maximum(sums - model.row_upper[:, None], model.row_lower[:, None] - sums)
    return np.asarray((excess / np.where(scale == 0, 1.0, scale)[:, None]).max(axis=0))


def _units(space: ActionSpace, least: FloatArray) -> FloatArray:
    """Return the largest coefficient of each row, but no less than given."""
    return np.maximum(least, space.linear_model.largest_coefficients)


def shown(space: ActionSpace, action: ActionArray) -> str:
    """Write an action: the chosen ones, or all values where some are not binary."""
    if space.binary:
        return str(np.flatnonzero(action).tolist())
    return str(np.asarray(action).tolist())


def _name(space: ActionSpace) -> str:
    return type(space).__name__
