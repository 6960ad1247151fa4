r"""Linear maximisation over spaces, one objective at a time: what ``linear_max`` does in numpy.

Each loop returns the maximum, ``-inf`` where what is held at one and zero leaves no action, and
writes a maximiser into ``x``. Of equal coefficients those of the first actions are taken.

Data of the kinds: ``TOP_K``: k, and 1 if exactly k are taken. ``CLASS_COUNTS``: the trie of the
maximal count vectors (:mod:`milp_rl.formulations.spaces.oracles.count_vectors`): number of classes,
number of nodes, the class of each level, first node of each level and the end, class of each
action, then of each node its count, its first child and the end of its children. ``SCHEDULE``:
budget, number of Hall's rows, number of classes, the rows, their limits, then a ``CLASS_COUNTS``:
the best actions within the budget are the maximum where Hall's conditions hold of them. ``SLOTS``:
the same with units needed by an arm of each class and the class of each action instead, where a
relaxation bounds what cannot be served. ``KNAPSACK``: as ``TOP_K``, and the budget and the costs
in ``numbers``.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.kernels.compiling import compiled
from milp_rl.formulations.kernels.description import (
    CLASS_COUNTS,
    KNAPSACK,
    SCHEDULE,
    TOP_K,
    Integers,
)


@compiled
def linear_maximum(
    kind: int,
    data: Integers,
    numbers: FloatArray,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    x: FloatArray,
) -> float:
    """Maximise ``c @ x`` over the space that ``kind``, ``data`` and ``numbers`` describe."""
    if kind == TOP_K:
        return top_k(data[0], data[1], c, one, zero, x)
    if kind == CLASS_COUNTS:
        return class_counts(data, c, one, zero, x)
    if kind == KNAPSACK:
        return knapsack(data, numbers, c, one, zero, x)
    return schedule(kind == SCHEDULE, data, c, one, zero, x)


@compiled
def other_maxima(
    kind: int,
    data: Integers,
    numbers: FloatArray,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    x: FloatArray,
    found: FloatArray,
) -> None:
    """Write the maximum with each free action turned the other way than in the maximiser ``x``."""
    if kind == TOP_K:
        _other_top_k(data[0], data[1], c, one, zero, x, found)
    elif kind == CLASS_COUNTS:
        _other_class_counts(data, c, one, zero, x, found)
    else:
        held_one, held_zero, point = one.copy(), zero.copy(), np.empty(len(c))
        for j in range(len(c)):
            if one[j] or zero[j]:
                continue
            if x[j] > 0.5:
                held_zero[j] = True
            else:
                held_one[j] = True
            found[j] = linear_maximum(kind, data, numbers, c, held_one, held_zero, point)
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
    n_classes, n_nodes = data[0], data[1]
    n = len(c)
    class_of = 3 + 2 * n_classes
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
    assert n_nodes >= 0
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
    """Return the best sum of each node of the trie with what is below it."""
    n_classes, n_nodes, n = data[0], data[1], len(data)
    counts, children = n - 3 * n_nodes, n - 2 * n_nodes
    best = np.empty(n_nodes)
    last = n_classes - 1
    for level in range(last, -1, -1):
        start = at[data[2 + level]]
        for node in range(data[2 + n_classes + level], data[3 + n_classes + level]):
            value = sums[start + data[counts + node]]
            if level < last:
                first, end = data[children + node], data[children + n_nodes + node]
                below = best[first]
                for child in range(first + 1, end):
                    below = max(below, best[child])
                value += below
            best[node] = value
    return best


@compiled
def class_counts(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Take the best actions of each class, as many as the best of the maximal vectors has."""
    n_classes, n_nodes = data[0], data[1]
    base, members, first, taken, size = _classes(data, c, one, zero)
    for j in range(len(c)):
        x[j] = 1.0 if one[j] else 0.0
    if base == -np.inf or n_classes == 0:
        return base
    sums, at = _sums(members, first, taken, size, c)
    best = _below(data, sums, at)
    node, end = 0, data[3 + n_classes]
    for other in range(1, end):
        if best[other] > best[node]:
            node = other
    value = best[node]
    if value == -np.inf:
        return -np.inf
    counts, children = len(data) - 3 * n_nodes, len(data) - 2 * n_nodes
    for level in range(n_classes):
        k = data[2 + level]
        free = data[counts + node] - taken[k]
        for i in range(first[k], min(first[k] + free, first[k + 1])):
            x[members[i]] = 1.0
        if level < n_classes - 1:
            begin = data[children + node]
            end = data[children + n_nodes + node]
            node = begin
            for child in range(begin + 1, end):
                if best[child] > best[node]:
                    node = child
    total: float = base + value
    return total


@compiled
def _other_class_counts(
    data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray, found: FloatArray
) -> None:
    n_classes, n_nodes = data[0], data[1]
    base, members, first, taken, size = _classes(data, c, one, zero)
    for j in range(len(c)):
        found[j] = base
    if base == -np.inf or n_classes == 0:
        return
    sums, at = _sums(members, first, taken, size, c)
    best = _below(data, sums, at)
    # The best of the other classes, for each count of a class.
    rest = np.empty(len(sums))
    for i in range(len(sums)):
        rest[i] = -np.inf
    above = np.zeros(n_nodes)
    counts, children = len(data) - 3 * n_nodes, len(data) - 2 * n_nodes
    for level in range(n_classes):
        start = at[data[2 + level]]
        for node in range(data[2 + n_classes + level], data[3 + n_classes + level]):
            place = start + data[counts + node]
            here = above[node] + sums[place]
            begin, end = data[children + node], data[children + n_nodes + node]
            below = 0.0
            if begin < end:
                below = -np.inf
                for child in range(begin, end):
                    above[child] = here
                    below = max(below, best[child])
            rest[place] = max(rest[place], above[node] + below)
    class_of = 3 + 2 * n_classes
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
def feasible(kind: int, data: Integers, numbers: FloatArray, action: ActionArray) -> bool:
    """Tell whether an action is in the space, as ``violations`` does."""
    n = len(action)
    if kind in (TOP_K, KNAPSACK):
        chosen, cost = 0, 0.0
        for j in range(n):
            if action[j] == 1:
                chosen += 1
                if kind == KNAPSACK:
                    cost += numbers[1 + j]
        if chosen > data[0] or (data[1] == 1 and chosen < data[0]):
            return False
        return kind == TOP_K or cost <= numbers[0]
    if kind == CLASS_COUNTS:
        return _listed(data, action)
    n_rows, n_classes = data[1], data[2]
    limits = 3 + n_rows * n_classes
    class_of = limits + n_rows
    if kind == SCHEDULE:
        class_of += 3 + 2 * data[class_of]
    else:
        class_of += n_classes
    counts = np.zeros(n_classes, dtype=np.int64)
    chosen = 0
    for j in range(n):
        if action[j] == 1:
            k = data[class_of + j]
            if k < 0:
                return False
            counts[k] += 1
            chosen += 1
    if chosen > data[0]:
        return False
    for row in range(n_rows):
        total = 0
        for k in range(n_classes):
            total += data[3 + row * n_classes + k] * counts[k]
        if total > data[limits + row]:
            return False
    return True


@compiled
def _listed(data: Integers, action: ActionArray) -> bool:
    """Tell whether a maximal vector has at least as many of each class as an action."""
    n_classes, n_nodes = data[0], data[1]
    class_of = 3 + 2 * n_classes
    counts = np.zeros(n_classes, dtype=np.int64)
    for j in range(len(action)):
        if action[j] == 1:
            k = data[class_of + j]
            if k < 0:
                return False
            counts[k] += 1
    if n_classes == 0:
        return True
    of_node, children = len(data) - 3 * n_nodes, len(data) - 2 * n_nodes
    node, end = np.empty(n_classes, dtype=np.int64), np.empty(n_classes, dtype=np.int64)
    level, node[0], end[0] = 0, 0, data[3 + n_classes]
    while level >= 0:
        own = node[level]
        if own == end[level]:
            level -= 1
            continue
        node[level] += 1
        if data[of_node + own] >= counts[data[2 + level]]:
            if level == n_classes - 1:
                return True
            level += 1
            node[level], end[level] = data[children + own], data[children + n_nodes + own]
    return False


@compiled
def schedule(
    listed: bool, data: Integers, c: FloatArray, one: BoolArray, zero: BoolArray, x: FloatArray
) -> float:
    """Take the best within the budget if it can be served, else go by what can be."""
    n, budget, n_rows, n_classes = len(c), data[0], data[1], data[2]
    limits = 3 + n_rows * n_classes
    own = data[limits + n_rows :]
    class_of = 3 + 2 * own[0] if listed else n_classes
    never = np.empty(n, dtype=np.bool_)
    for j in range(n):
        never[j] = zero[j] or own[class_of + j] < 0
        if never[j] and one[j]:
            return -np.inf
    value = top_k(budget, 0, c, one, never, x)
    if value == -np.inf:
        return value
    counts = np.zeros(n_classes, dtype=np.int64)
    for j in range(n):
        if x[j] > 0.5:
            counts[own[class_of + j]] += 1
    for row in range(n_rows):
        total = 0
        for k in range(n_classes):
            total += data[3 + row * n_classes + k] * counts[k]
        if total > data[limits + row]:
            if listed:
                return class_counts(own, c, one, zero, x)
            point = np.empty(n)
            other = _in_slots(data, c, one, never, point)
            if other < value:
                for j in range(n):
                    x[j] = point[j]
                return other
            return value
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
