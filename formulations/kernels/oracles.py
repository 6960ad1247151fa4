r"""Linear maximisation over spaces, one objective at a time: what ``linear_max`` does in numpy.

Each loop returns the maximum, ``-inf`` where what is held at one and zero leaves no action, and
writes a maximiser into ``x``. Of equal coefficients those of the first actions are taken.

A loop that maximises is compiled for each kind of oracle, so that nobody waits for those of other
sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.kernels.compiling import compiled
from milp_rl.formulations.kernels.description import (
    ClassCountsOracle,
    CompiledOracle,
    Integers,
    KnapsackOracle,
    MatchingOracle,
    ScheduleOracle,
    SlotsOracle,
    TopKOracle,
)


def linear_maximum(
    oracle: CompiledOracle, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Maximise ``c @ x`` over the space that an oracle describes."""
    value: float = _MAXIMUM[type(oracle)](oracle, c, one, zero, x)
    return value


@overload(linear_maximum, strict=False)
def _linear_maximum(oracle: Any, c: Any, one: Any, zero: Any, x: Any) -> Any:
    return _MAXIMUM[oracle.instance_class]


def other_maxima(
    oracle: CompiledOracle,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    x: FloatArray,
    found: FloatArray,
) -> None:
    """Write the maximum with each free action turned the other way than in the maximiser ``x``."""
    _OTHERS[type(oracle)](oracle, c, one, zero, x, found)


@overload(other_maxima, strict=False)
def _other_maxima(oracle: Any, c: Any, one: Any, zero: Any, x: Any, found: Any) -> Any:
    return _OTHERS[oracle.instance_class]


def feasible(oracle: CompiledOracle, action: ActionArray) -> bool:
    """Tell whether an action is in the space, as ``violations`` does."""
    told: bool = _FEASIBLE[type(oracle)](oracle, action)
    return told


@overload(feasible, strict=False)
def _feasible(oracle: Any, action: Any) -> Any:
    return _FEASIBLE[oracle.instance_class]


@compiled
def _others_one_by_one(
    oracle: CompiledOracle,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    x: FloatArray,
    found: FloatArray,
) -> None:
    """Write what :func:`other_maxima` does, by a maximum for each action."""
    held_one, held_zero, point = one.copy(), zero.copy(), np.empty(len(c))
    for j in range(len(c)):
        if one[j] or zero[j]:
            continue
        if x[j] > 0.5:
            held_zero[j] = True
        else:
            held_one[j] = True
        found[j] = linear_maximum(oracle, c, held_one, held_zero, point)
        held_one[j], held_zero[j] = False, False


@compiled
def largest(values: FloatArray, n: int, rank: int) -> float:
    """Return the value of a rank from 1 (the largest) among the first n, which are reordered."""
    left, right, wanted = 0, n - 1, rank - 1
    while left < right:
        pivot = values[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            right = j
        elif wanted >= i:
            left = i
        else:
            break
    found: float = values[wanted]
    return found


@compiled
def top_k(
    k: int, exactly: int, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Take the k best, or those of them that are positive."""
    n, left, total, m = len(c), k, 0.0, 0
    values = np.empty(n)
    for j in range(n):
        x[j] = 0.0
        if one[j]:
            if zero[j]:
                return -np.inf
            x[j] = 1.0
            total += c[j]
            left -= 1
        elif not zero[j] and (exactly == 1 or c[j] > 0.0):
            values[m] = c[j]
            m += 1
    if left < 0 or (exactly == 1 and m < left):
        return -np.inf
    if left == 0 or m == 0:
        return total
    least = largest(values, m, left) if m > left else -np.inf
    above = 0
    for j in range(n):
        if c[j] > least and not one[j] and not zero[j] and (exactly == 1 or c[j] > 0.0):
            x[j] = 1.0
            total += c[j]
            above += 1
    for j in range(n if above < left and m > left else 0):
        if above < left and c[j] == least and not one[j] and not zero[j]:
            x[j] = 1.0
            total += c[j]
            above += 1
    return total


@compiled
def _other_top_k(
    k: int,
    exactly: int,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    x: FloatArray,
    found: FloatArray,
) -> None:
    total, taken, held = 0.0, 0, 0
    worst, next_best = np.inf, -np.inf  # of what is taken freely, and of what is not
    for j in range(len(c)):
        if one[j]:
            total += c[j]
            held += 1
        elif x[j] > 0.5:
            total += c[j]
            taken += 1
            worst = min(worst, c[j])
        elif not zero[j]:
            next_best = max(next_best, c[j])
    full = held + taken >= k
    for j in range(len(c)):
        if one[j] or zero[j]:
            continue
        if x[j] > 0.5:
            instead = next_best if exactly == 1 else (max(next_best, 0.0) if full else 0.0)
            found[j] = total - c[j] + instead
        elif not full:
            found[j] = total + c[j]
        else:
            found[j] = total - worst + c[j] if taken else -np.inf


@compiled
def _classes(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray
) -> tuple[float, Integers, Integers, Integers, Integers]:
    """Return what is held at one in sum, and the free positive actions of each class, best first.

    The actions one class after another, the first of each class and the end, how many of each
    class are held at one, and how many a class has in all.
    """
    n_classes, n = data[0], len(c)
    class_of = 4 + 2 * n_classes
    taken = np.zeros(n_classes, dtype=np.int64)
    size = np.zeros(n_classes, dtype=np.int64)
    first = np.zeros(n_classes + 1, dtype=np.int64)
    base = 0.0
    for j in range(n):
        k = data[class_of + j]
        if one[j]:
            if k < 0 or zero[j]:
                return -np.inf, size, first, taken, size
            base += c[j]
            taken[k] += 1
            size[k] += 1
        elif k >= 0:
            size[k] += 1
            if not zero[j] and c[j] > 0.0:
                first[k + 1] += 1
    for k in range(n_classes):
        first[k + 1] += first[k]
    end = first[:-1].copy()
    members = np.empty(first[n_classes], dtype=np.int64)
    for j in range(n):
        k = data[class_of + j]
        if k >= 0 and not one[j] and not zero[j] and c[j] > 0.0:
            members[end[k]] = j
            end[k] += 1
    for k in range(n_classes):
        _sort(members, first[k], first[k + 1], c)
    return base, members, first, taken, size


@compiled
def _sort(members: Integers, first: int, end: int, c: FloatArray) -> None:
    """Sort part of a list of actions by value, best first, equal ones in order: shell sort."""
    gap = 1
    while gap < (end - first) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(first + gap, end):
            own, j = members[i], i - gap
            value = c[own]
            while j >= first and (
                c[members[j]] < value or (c[members[j]] == value and members[j] > own)
            ):
                members[j + gap] = members[j]
                j -= gap
            members[j + gap] = own
        gap //= 3


@compiled
def _sums(
    members: Integers, first: Integers, taken: Integers, size: Integers, c: FloatArray
) -> tuple[FloatArray, Integers]:
    """Return the best free sum for each count of each class, and where a class begins."""
    n_classes = len(size)
    at = np.zeros(n_classes + 1, dtype=np.int64)
    for k in range(n_classes):
        at[k + 1] = at[k] + size[k] + 1
    sums = np.empty(at[n_classes])
    for k in range(n_classes):
        total, next_ = 0.0, first[k]
        for m in range(size[k] + 1):
            if m < taken[k]:
                sums[at[k] + m] = -np.inf
                continue
            if m > taken[k] and next_ < first[k + 1]:
                total += c[members[next_]]
                next_ += 1
            sums[at[k] + m] = total
    return sums, at


@compiled
def _below(data: Integers, sums: FloatArray, at: Integers) -> FloatArray:
    """Return the best sum on a way from each state of the diagram to the last one."""
    n_classes, n_states = data[0], data[1]
    first_arc, counts, targets = _arcs(data)
    best = np.empty(n_states)
    best[n_states - 1] = 0.0
    for level in range(n_classes - 1, -1, -1):
        start = at[data[3 + level]]
        for state in range(data[3 + n_classes + level], data[4 + n_classes + level]):
            value = -np.inf
            for arc in range(data[first_arc + state], data[first_arc + state + 1]):
                own = sums[start + data[counts + arc]] + best[data[targets + arc]]
                value = max(value, own)
            best[state] = value
    return best


@compiled
def _arcs(data: Integers) -> tuple[int, int, int]:
    """Return where the first arcs of states, the arcs' counts and their targets begin."""
    n_arcs = data[2]
    return len(data) - 2 * n_arcs - data[1], len(data) - 2 * n_arcs, len(data) - n_arcs


@compiled
def class_counts(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Take the best actions of each class, as many as the best of the maximal vectors has."""
    n_classes = data[0]
    base, members, first, taken, size = _classes(data, c, one, zero)
    for j in range(len(c)):
        x[j] = 1.0 if one[j] else 0.0
    if base == -np.inf:
        return base
    sums, at = _sums(members, first, taken, size, c)
    best = _below(data, sums, at)
    value = best[0]
    if value == -np.inf:
        return -np.inf
    first_arc, counts, targets = _arcs(data)
    state = 0
    for level in range(n_classes):
        k = data[3 + level]
        arc = data[first_arc + state]
        while sums[at[k] + data[counts + arc]] + best[data[targets + arc]] < best[state]:
            arc += 1
        free = data[counts + arc] - taken[k]
        for i in range(first[k], min(first[k] + free, first[k + 1])):
            x[members[i]] = 1.0
        state = data[targets + arc]
    total: float = base + value
    return total


@compiled
def _other_class_counts(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray, found: FloatArray
) -> None:
    n_classes, n_states = data[0], data[1]
    base, members, first, taken, size = _classes(data, c, one, zero)
    for j in range(len(c)):
        found[j] = base
    if base == -np.inf:
        return
    sums, at = _sums(members, first, taken, size, c)
    best = _below(data, sums, at)
    # The best of the other classes, for each count of a class.
    rest = np.empty(len(sums))
    for i in range(len(sums)):
        rest[i] = -np.inf
    above = np.full(n_states, -np.inf)  # the best sum on a way to each state
    above[0] = 0.0
    first_arc, counts, targets = _arcs(data)
    for level in range(n_classes):
        start = at[data[3 + level]]
        for state in range(data[3 + n_classes + level], data[4 + n_classes + level]):
            for arc in range(data[first_arc + state], data[first_arc + state + 1]):
                place, target = start + data[counts + arc], data[targets + arc]
                rest[place] = max(rest[place], above[state] + best[target])
                above[target] = max(above[target], above[state] + sums[place])
    class_of = 4 + 2 * n_classes
    for j in range(len(c)):
        k = data[class_of + j]
        if one[j] or zero[j]:
            continue
        if k < 0:
            found[j] = -np.inf if x[j] < 0.5 else base
            continue
        # The sums of its class without it, with one place less if it is held at one.
        on = x[j] < 0.5
        total, next_, value = 0.0, first[k], -np.inf
        least = taken[k] + 1 if on else taken[k]
        for m in range(least, size[k] + 1):
            if m > least:
                if next_ < first[k + 1] and members[next_] == j:
                    next_ += 1
                if next_ < first[k + 1]:
                    total += c[members[next_]]
                    next_ += 1
            value = max(value, rest[at[k] + m] + total)
        found[j] = base + value + (c[j] if on else 0.0)


@compiled
def _as_many_as_allowed(data: Integers, action: ActionArray) -> bool:
    """Tell whether at most k are chosen, or exactly k where these are wanted."""
    chosen = 0
    for j in range(len(action)):
        if action[j] == 1:
            chosen += 1
    return bool(chosen == data[0] or (chosen < data[0] and data[1] != 1))


@compiled
def _affordable(data: Integers, numbers: FloatArray, action: ActionArray) -> bool:
    """Tell whether as many are chosen as allowed, and within the budget."""
    cost = 0.0
    for j in range(len(action)):
        if action[j] == 1:
            cost += numbers[1 + j]
    return _as_many_as_allowed(data, action) and cost <= numbers[0]


@compiled
def _served(listed: bool, data: Integers, action: ActionArray) -> bool:
    """Tell whether what is chosen is within the budget, and Hall's conditions hold of it."""
    n_rows, n_classes = data[1], data[2]
    limits = 3 + n_rows * n_classes
    class_of = limits + n_rows
    if listed:
        class_of += 4 + 2 * data[class_of]
    else:
        class_of += n_classes
    counts = np.zeros(n_classes, dtype=np.int64)
    chosen = 0
    for j in range(len(action)):
        if action[j] == 1:
            k = data[class_of + j]
            if k < 0:
                return False
            counts[k] += 1
            chosen += 1
    return chosen <= data[0] and _halls_rows_hold(data, counts)


@compiled
def _halls_rows_hold(data: Integers, counts: Integers) -> bool:
    """Tell whether so many of each class are within the limits of Hall's rows."""
    n_rows, n_classes = data[1], data[2]
    for row in range(n_rows):
        total = 0
        for k in range(n_classes):
            total += data[3 + row * n_classes + k] * counts[k]
        if total > data[3 + n_rows * n_classes + row]:
            return False
    return True


@compiled
def _listed(data: Integers, action: ActionArray) -> bool:
    """Tell whether a maximal vector has at least as many of each class as an action."""
    n_classes, n_states = data[0], data[1]
    class_of = 4 + 2 * n_classes
    chosen = np.zeros(n_classes, dtype=np.int64)
    for j in range(len(action)):
        if action[j] == 1:
            k = data[class_of + j]
            if k < 0:
                return False
            chosen[k] += 1
    reached = np.zeros(n_states, dtype=np.bool_)
    reached[0] = True
    first_arc, counts, targets = _arcs(data)
    for level in range(n_classes):
        least = chosen[data[3 + level]]
        for state in range(data[3 + n_classes + level], data[4 + n_classes + level]):
            if not reached[state]:
                continue
            for arc in range(data[first_arc + state], data[first_arc + state + 1]):
                if data[counts + arc] >= least:
                    reached[data[targets + arc]] = True
    return bool(reached[n_states - 1])


@compiled
def _within_budget(
    listed: bool, data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> tuple[float, bool]:
    """Return the best value within the budget, and whether that can be served."""
    n, budget, n_rows, n_classes = len(c), data[0], data[1], data[2]
    limits = 3 + n_rows * n_classes
    own = data[limits + n_rows :]
    class_of = 4 + 2 * own[0] if listed else n_classes
    never = np.empty(n, dtype=np.bool_)
    for j in range(n):
        never[j] = zero[j] or own[class_of + j] < 0
        if never[j] and one[j]:
            return -np.inf, True
    value = top_k(budget, 0, c, one, never, x)
    if value == -np.inf:
        return value, True
    counts = np.zeros(n_classes, dtype=np.int64)
    for j in range(n):
        if x[j] > 0.5:
            counts[own[class_of + j]] += 1
    return value, _halls_rows_hold(data, counts)


@compiled
def schedule(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Take the best within the budget if it can be served, else go by what can be."""
    value, served = _within_budget(True, data, c, one, zero, x)
    if served:
        return value
    return class_counts(data[3 + data[1] * data[2] + data[1] :], c, one, zero, x)


@compiled
def slots(data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray) -> float:
    """Take the best within the budget if it can be served, else the smaller of two bounds."""
    value, served = _within_budget(False, data, c, one, zero, x)
    if served:
        return value
    n = len(c)
    own = data[3 + data[1] * data[2] + data[1] :]
    never, point = np.empty(n, dtype=np.bool_), np.empty(n)
    for j in range(n):
        never[j] = zero[j] or own[data[2] + j] < 0
    other = _in_slots(data, c, one, never, point)
    if other < value:
        for j in range(n):
            x[j] = point[j]
        return other
    return value


@compiled
def _in_slots(
    data: Integers, c: FloatArray, one: BoolArray, never: BoolArray, x: FloatArray
) -> float:
    """Take arms by value per unit while all rows have room (a polymatroid's greedy algorithm)."""
    n, n_rows, n_classes = len(c), data[1], data[2]
    limits = 3 + n_rows * n_classes
    needs = limits + n_rows
    class_of = needs + n_classes
    slack = np.empty(n_rows)
    for row in range(n_rows):
        slack[row] = data[limits + row]
    density, order = np.empty(n), np.empty(n, dtype=np.int64)
    m = 0
    for j in range(n):
        x[j] = 0.0
        if one[j] or (not never[j] and c[j] > 0.0):
            density[j] = np.inf if one[j] else c[j] / data[needs + data[class_of + j]]
            order[m] = j
            m += 1
    _sort(order, 0, m, density)
    value = 0.0
    for i in range(m):
        j = order[i]
        k = data[class_of + j]
        room = np.inf
        for row in range(n_rows):
            if data[3 + row * n_classes + k] > 0:
                room = min(room, slack[row])
        units = data[needs + k]
        if one[j] and room < units:
            return -np.inf
        taken = min(float(units), max(room, 0.0))
        x[j] = taken / units
        value += c[j] * x[j]
        for row in range(n_rows):
            if data[3 + row * n_classes + k] > 0:
                slack[row] -= taken
    return value


@compiled
def knapsack(
    data: Integers,
    numbers: FloatArray,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    x: FloatArray,
) -> float:
    """Take the k best, or fill the budget by value per cost: whichever bound is smaller."""
    n = len(c)
    value = top_k(data[0], data[1], c, one, zero, x)
    if value == -np.inf:
        return value
    left = numbers[0]
    density, order = np.empty(n), np.empty(n, dtype=np.int64)
    spent, m, total = 0.0, 0, 0.0
    for j in range(n):
        cost = numbers[1 + j]
        if one[j]:
            left -= cost
            total += c[j]
        elif not zero[j] and c[j] > 0.0:
            density[j] = c[j] / cost if cost > 0.0 else np.inf
            order[m] = j
            m += 1
        if x[j] > 0.5:
            spent += cost
    if left < -1e-9:
        return -np.inf
    if spent <= numbers[0]:  # then the other is not smaller
        return value
    _sort(order, 0, m, density)
    point = np.zeros(n)
    for j in range(n):
        point[j] = 1.0 if one[j] else 0.0
    for i in range(m):
        j = order[i]
        cost = numbers[1 + j]
        part = 1.0 if cost <= left else max(left, 0.0) / cost
        left -= part * cost
        point[j] = part
        total += part * c[j]
        if part < 1.0:
            break
    if total < value:
        for j in range(n):
            x[j] = point[j]
        return total
    return value


@compiled
def _is_matching(data: Integers, action: ActionArray) -> bool:
    """Tell whether everybody is in at most one eligible pair, and whether there are enough."""
    n, m = data[0], data[1]
    right = np.zeros(m, dtype=np.bool_)
    pairs = 0
    for i in range(n):
        left = False
        for j in range(m):
            if action[i * m + j] == 1:
                if left or right[j] or data[4 + i * m + j] == 0:
                    return False
                left, right[j] = True, True
                pairs += 1
    return bool(data[2] <= pairs <= data[3])


@compiled
def _free_pairs(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray
) -> tuple[float, int, FloatArray]:
    """Return the sum and number of pairs held at one, and what each other one that may be is worth.

    Others are worth ``-inf``; the sum is so where what is held is no matching.
    """
    n, m = data[0], data[1]
    worth = np.full((n, m), -np.inf)
    left, right = np.zeros(n, dtype=np.bool_), np.zeros(m, dtype=np.bool_)
    base, held = 0.0, 0
    for a in range(len(c)):
        if one[a]:
            i, j = a // m, a % m
            if left[i] or right[j] or zero[a] or data[4 + a] == 0:
                return -np.inf, held, worth
            left[i], right[j] = True, True
            base += c[a]
            held += 1
    for i in range(n):
        for j in range(m):
            a = i * m + j
            if not left[i] and not right[j] and not zero[a] and data[4 + a] == 1:
                worth[i, j] = c[a]
    return base, held, worth


@compiled
def _exchanges(
    worth: FloatArray, left: Integers, right: Integers, size: int
) -> tuple[FloatArray, Integers]:
    """Return what it gains that who is on the left of one pair takes the right of another.

    The entry (p, q) of the gains is for the left of pair p and the right of pair q, which is given
    up; the row ``size`` for the best who is in no pair on the left, the column ``size`` for the
    best on the right. ``who`` says who that is: for (size, q) in its column 0, for (p, size) in 1.

    Parameters
    ----------
    worth
        Of each pair, ``-inf`` where it cannot be, shape (n, m).
    left, right
        Who is in each pair.
    size
        Number of pairs.
    """
    n, m = worth.shape
    of_left, of_right = np.full(n, size), np.full(m, size)
    given_up = np.zeros(size + 1)
    for p in range(size):
        of_left[left[p]], of_right[right[p]] = p, p
        given_up[p] = worth[left[p], right[p]]
    gains = np.full((size + 1, size + 1), -np.inf)
    who = np.full((size + 1, 2), -1)
    for i in range(n):
        p = of_left[i]
        for j in range(m):
            q = of_right[j]
            gain = worth[i, j] - given_up[q]
            if gain > gains[p, q]:
                gains[p, q] = gain
                if p == size:
                    who[q, 0] = i
                if q == size:
                    who[p, 1] = j
    for p in range(size):
        gains[p, p] = -np.inf  # it has that one
    return gains, who


@compiled
def _comes_after(before: Integers, q: int, p: int, end: int) -> bool:
    """Tell whether pair p is reached by way of q, where only rounding can gain by going on to q."""
    while p != end and p != q:
        p = before[p]
    return p == q


@compiled
def matching(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Take a matching of one pair more by the best exchanges, while that gains or is needed.

    Successive shortest paths: after s of them, the matching is the best of s pairs (Ahuja,
    Magnanti and Orlin, "Network Flows", 1993, section 9.7).
    """
    m = data[1]
    base, held, worth = _free_pairs(data, c, one, zero)
    for a in range(len(c)):
        x[a] = 1.0 if one[a] else 0.0
    least, most = data[2] - held, data[3] - held
    if base == -np.inf or most < 0:
        return -np.inf
    left, right = np.zeros(most, dtype=np.int64), np.zeros(most, dtype=np.int64)
    size = 0
    while size < most:
        gains, who = _exchanges(worth, left, right, size)
        best, before = gains[size].copy(), np.full(size + 1, size)
        for _ in range(size):
            changed = False
            for p in range(size):
                for q in range(size + 1):
                    gain = best[p] + gains[p, q]
                    if gain > best[q] and (q == size or not _comes_after(before, q, p, size)):
                        best[q], before[q] = gain, p
                        changed = True
            if not changed:
                break
        if best[size] == -np.inf or (best[size] <= 0.0 and size >= least):
            break
        p = before[size]
        new, last = who[p, 1], size
        while p != size:  # from the end: each left gets the right of the pair after it
            new, right[p], last = right[p], new, p
            p = before[p]
        left[size], right[size] = who[last, 0], new
        size += 1
    if size < least:
        return -np.inf
    total = base
    for p in range(size):
        x[left[p] * m + right[p]] = 1.0
        total += worth[left[p], right[p]]
    return total


@compiled
def _other_matchings(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray, found: FloatArray
) -> None:
    """Go by the best exchanges that return to the pair, in the residual graph of the matching.

    Its nodes are the pairs, whose left is then free, and the ends of the flow: somebody on the
    right taken that was in no pair, and somebody on the left given up.
    """
    n, m = data[0], data[1]
    base, held, worth = _free_pairs(data, c, one, zero)
    total, size = base, 0
    left, right = np.zeros(data[3], dtype=np.int64), np.zeros(data[3], dtype=np.int64)
    of_left, of_right = np.full(n, -1), np.full(m, -1)
    for a in range(len(c)):
        if x[a] > 0.5 and not one[a]:
            i, j = a // m, a % m
            left[size], right[size] = i, j
            of_left[i], of_right[j] = size, size
            total += c[a]
            size += 1
    gains, _ = _exchanges(worth, left, right, size)
    taken, given = size, size + 1
    arcs = np.full((size + 2, size + 2), -np.inf)
    for p in range(size):
        for q in range(size):
            arcs[p, q] = gains[p, q]
        arcs[p, taken], arcs[p, given] = gains[p, size], 0.0
        arcs[taken, p] = -worth[left[p], right[p]]
        arcs[given, p] = gains[size, p]
    arcs[given, taken] = gains[size, size]
    if held + size < data[3]:
        arcs[taken, given] = 0.0
    if held + size > data[2]:
        arcs[given, taken] = max(gains[size, size], 0.0)
    best = arcs.copy()
    for v in range(size + 2):
        best[v, v] = 0.0
    for v in range(size + 2):
        for p in range(size + 2):
            for q in range(size + 2):
                if p != q:  # a way round gains nothing but rounding
                    best[p, q] = max(best[p, q], best[p, v] + best[v, q])
    for i in range(n):
        for j in range(m):
            a = i * m + j
            if one[a] or zero[a]:
                continue
            p, q = of_left[i], of_right[j]
            if x[a] > 0.5:
                other = -np.inf
                for v in range(size + 2):
                    if v != p:
                        other = max(other, best[p, v] + arcs[v, p])
                found[a] = total + other
                continue
            start = taken if q < 0 else q
            end = given if p < 0 else p
            lost = 0.0 if q < 0 else worth[left[q], right[q]]
            found[a] = total + worth[i, j] - lost + best[start, end]


# What is done for an oracle of each kind, in functions whose arguments are called as those that
# hand over to them are, as numba asks for.
_MAXIMUM: dict[type, Callable[..., Any]] = {
    TopKOracle: lambda oracle, c, one, zero, x: top_k(
        oracle.data[0], oracle.data[1], c, one, zero, x
    ),
    ClassCountsOracle: lambda oracle, c, one, zero, x: class_counts(oracle.data, c, one, zero, x),
    KnapsackOracle: lambda oracle, c, one, zero, x: knapsack(
        oracle.data, oracle.numbers, c, one, zero, x
    ),
    MatchingOracle: lambda oracle, c, one, zero, x: matching(oracle.data, c, one, zero, x),
    ScheduleOracle: lambda oracle, c, one, zero, x: schedule(oracle.data, c, one, zero, x),
    SlotsOracle: lambda oracle, c, one, zero, x: slots(oracle.data, c, one, zero, x),
}
_OTHERS: dict[type, Callable[..., Any]] = {
    TopKOracle: lambda oracle, c, one, zero, x, found: _other_top_k(
        oracle.data[0], oracle.data[1], c, one, zero, x, found
    ),
    ClassCountsOracle: lambda oracle, c, one, zero, x, found: _other_class_counts(
        oracle.data, c, one, zero, x, found
    ),
    MatchingOracle: lambda oracle, c, one, zero, x, found: _other_matchings(
        oracle.data, c, one, zero, x, found
    ),
    **dict.fromkeys(
        (KnapsackOracle, ScheduleOracle, SlotsOracle),
        lambda oracle, c, one, zero, x, found: _others_one_by_one(oracle, c, one, zero, x, found),
    ),
}
_FEASIBLE: dict[type, Callable[..., Any]] = {
    TopKOracle: lambda oracle, action: _as_many_as_allowed(oracle.data, action),
    ClassCountsOracle: lambda oracle, action: _listed(oracle.data, action),
    KnapsackOracle: lambda oracle, action: _affordable(oracle.data, oracle.numbers, action),
    MatchingOracle: lambda oracle, action: _is_matching(oracle.data, action),
    ScheduleOracle: lambda oracle, action: _served(True, oracle.data, action),
    SlotsOracle: lambda oracle, action: _served(False, oracle.data, action),
}
