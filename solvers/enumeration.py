"""The exact argmax by evaluating every feasible action: for small sets, and as a yardstick.

All actions are valued in float32 first, and those that its rounding leaves in question once more
in float64. Of a long list, those that a bound rules out (:mod:`milp_rl.solvers.screening`) are not
valued at all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.bounds import suits_loops
from milp_rl.formulations.networks.action_value import (
    ActionLayer,
    ActionNetworks,
    ActionValue,
    evaluated,
)
from milp_rl.formulations.networks.network import INPUT, Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import check_listed
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import LateError
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Argmax, Starts
from milp_rl.solvers.ranked import ended, in_order
from milp_rl.solvers.result import ArgmaxResult
from milp_rl.solvers.screening import functions_above, suits_screening

_BATCH_ENTRIES = 100_000  # of a layer, few enough to stay in the cache
_KEPT_ENTRIES = 20_000_000
_LOOP_ENTRIES = 50_000_000  # of all ones by the neurons that they go to
_LEAST_SCREENED = 4_000_000  # products behind the first layer, of all actions
_HIGHEST = 64  # bounded actions, whose best value rules out others
_MOST_LEFT = 0.5  # of the actions, above which it has not paid
_MISSES = 3  # in a row, after which no more states are screened
_FLOAT64_PER_FLOAT32 = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
_FLOAT32 = (1e-25, 1e25)  # sizes that float32 keeps its precision for


_NO_STATES = np.zeros(0, dtype=int)  # what all actions share needs none

RoughArray = NDArray[Any]  # float32, or float64
Valued = tuple[RoughArray, type[np.floating[Any]]]


class EnumerationArgmax(Argmax):
    r"""Every feasible action, listed once and evaluated for each state.

    .. math:: \max_{a \in A} Q(a, s) = \max \{ Q(a_1, s), \dots, Q(a_m, s) \}, \qquad
              A = \{a_1, \dots, a_m\}

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    incumbents
        What is known of the space.
    limit
        Largest number of actions to list.

    Raises
    ------
    ValueError
        If the space has more than ``limit`` feasible actions.
    ContradictionError
        If the space lists an action that its own check refuses, or leaves one out.

    Examples
    --------
    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[-1.0, 1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> result = mr.argmax(network, [], mr.BudgetTopK(3, 2), solver="enumeration")
    >>> result.action, result.value, result.message
    (array([0, 1, 1], dtype=int8), 1.0, 'evaluated all 7 feasible actions')
    """

    name = "enumeration"
    parallel = "threads"

    def __init__(
        self,
        value: ActionValue | Network,
        space: ActionSpace,
        incumbents: Incumbents | None = None,
        *,
        limit: int = 1_000_000,
    ) -> None:
        self._limit = limit
        self._rough: _Rough | None = None
        self._missed = 0  # states in a row of which screening has left most actions
        super().__init__(value, space, incumbents)
        with suppress(LateError):  # then it is listed for the first solve, within its limit
            self._actions  # noqa: B018

    @cached_property
    def _actions(self) -> ActionArray:
        """Every feasible action; a ``LateError`` if the time limit passes before it is listed."""
        actions = self.space.enumerate(self._limit)
        check_listed(self.space, actions, self.incumbents.sample)
        return actions

    @cached_property
    def _largest(self) -> FloatArray:
        """Largest absolute value of each variable, shape (n_actions,)."""
        return np.maximum(1.0, np.maximum(np.abs(self.space.lower), np.abs(self.space.upper)))

    def __len__(self) -> int:
        return len(self._actions)

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        loops = options.loops and self._suits_loops(networks)
        found = []
        for i, screen in enumerate(self._screened(networks, pins)):
            valued = self._valued_in_loops(networks, i) if loops and pins[i].empty else None
            found.append(self._best(networks, i, pins, valued, screen=screen))
        return found

    def results_of_few(
        self, networks: ActionNetworks, options: SolveOptions, pins: Pins, most: int
    ) -> list[ArgmaxResult | None]:
        """Solve where at most so many actions need to be valued; ``None`` for the other states.

        Certified like all results. Nothing is solved if there is no bound that rules actions out.
        """
        found: list[ArgmaxResult | None] = []
        for i, screen in enumerate(self._screened(networks, pins)):
            few = screen is not None and len(screen.places) <= most
            answer = self._best(networks, i, pins, screen=screen) if few else None
            found.append(None if answer is None else self._result(answer, options))
        return found

    def _screened(self, networks: ActionNetworks, pins: Pins) -> Iterator[_Screened | None]:
        """Screen the actions for one state after another, ``None`` where that would not pay."""
        behind = sum(
            w.shape[-2] * w.shape[-1] for own in networks.layers[1:] for _, w in own.inputs
        )
        pays = len(self._actions) * behind >= _LEAST_SCREENED and suits_screening(networks)
        known = self._rough_of(networks.centred) if pays else None
        if known is None or known.products[0] is None or self._missed >= _MISSES:
            yield from itertools.repeat(None, networks.n_states)
            return
        functions = functions_above(networks.centred, *known.ends)
        for i, (coefficients, constant) in enumerate(zip(*functions, strict=True)):
            hopeless = self._missed >= _MISSES
            yield None if hopeless else self._left(coefficients, constant, networks, i, pins)

    def _left(
        self,
        coefficients: FloatArray,
        constant: float,
        networks: ActionNetworks,
        state: int,
        pins: Pins,
    ) -> _Screened | None:
        """Rule out the actions within the pins that a bound shows not to be the best.

        Returns
        -------
        _Screened or None
            Nothing where there is no action, or values overflow.
        """
        begin = time.perf_counter()
        own = networks.centred
        within = self._within(pins[state])
        upper = self._bounded(coefficients, constant, own, state, within)
        if not len(upper):
            return None

        def placed(rows: IntArray) -> IntArray:
            return rows if within is None else within[rows]

        highest, lowest = np.argmax(upper), np.argmin(upper)
        values, dtype = self._rough_values(own, state, placed(np.array([highest])))
        error = self._error(own.at(state), dtype)
        # Of the values, and of the bounds, which sum what they do, once more for every layer.
        margin = error * (2 + 2 * len(networks.layers))
        if not np.isfinite(values).all():
            return None
        among = ~(upper < values.max() - margin)
        if among.sum() > _HIGHEST:
            kept = np.flatnonzero(among)
            top = kept[np.argpartition(-upper[kept], _HIGHEST)[:_HIGHEST]]
            values, _ = self._rough_values(own, state, placed(top))
            if not np.isfinite(values).all():
                return None
            among = ~(upper < values.max() - margin)
        among[highest] = True  # also where its bound is none, which is then noticed
        kept = np.flatnonzero(among)
        self._missed = self._missed + 1 if len(kept) > _MOST_LEFT * len(upper) else 0
        worst = int(placed(np.array([lowest]))[0])
        return _Screened(begin, within, placed(kept), upper[kept] + margin, worst, error)

    def _bounded(
        self,
        coefficients: FloatArray,
        constant: float,
        network: ActionNetworks,
        state: int,
        places: IntArray | None,
    ) -> RoughArray:
        """Return a function of the first layer's outputs for the actions at some places."""
        known = self._rough_of(network)
        products, dtype = known.products[0], known.dtype
        assert products is not None
        upper = np.empty(len(products) if places is None else len(places), dtype=dtype)
        bias = network.layers[0].bias
        batch = max(_BATCH_ENTRIES // len(coefficients), 1)
        with np.errstate(over="ignore", invalid="ignore"):
            bias = (bias if bias.ndim == 1 else bias[state]).astype(dtype)
            slopes: RoughArray = coefficients.astype(dtype)
            for i in range(0, len(upper), batch):
                part = slice(i, i + batch)
                outputs = products[part if places is None else places[part]] + bias
                np.maximum(outputs, 0.0, out=outputs)
                upper[part] = outputs @ slopes
            upper += dtype(constant)
        return upper

    def _suits_loops(self, networks: ActionNetworks) -> bool:
        """Whether compiled loops are faster: of one hidden layer, over few ones."""
        if len(networks.hidden) != 1 or not self.space.binary or not suits_loops(networks):
            return False
        return len(self._taken[1]) * networks.widest <= _LOOP_ENTRIES

    @cached_property
    def _taken(self) -> tuple[IntArray, IntArray]:
        """Where each action's ones begin, and the end; and the places of the ones."""
        rows, places = np.nonzero(self._actions)
        first = np.searchsorted(rows, np.arange(len(self._actions) + 1))
        return first.astype(np.int64), places.astype(np.int64)

    def _valued_in_loops(self, networks: ActionNetworks, state: int) -> Valued:
        """Value all actions for one of several states, in float64."""
        from milp_rl.solvers.kernels import values_of_listed

        values = np.empty(len(self._actions))
        values_of_listed(networks.centred.flat, state, *self._taken, values)
        return values, np.float64

    def ranked(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        n: int,
        difference: int = 1,
        pins: Pins | None = None,
    ) -> list[ArgmaxResult]:
        """Return the n best actions of one state, each the best of those that differ so."""
        held = pins or Pins()
        places = self._within(held[0])
        actions = self._actions if places is None else self._actions[places]
        if not len(actions):
            return []
        valued = self._valued(networks, 0, places)
        left = np.ones(len(actions), dtype=bool)
        results: list[ArgmaxResult] = []
        deadline = options.deadline(time.perf_counter())
        while len(results) < n and left.any():
            if results and late(deadline):
                results.append(ended(self.name, results[-1].bound))
                break
            answer = self._best(networks, 0, held, valued, left)
            results.append(self._result(answer, options))
            left &= (actions != answer.action).sum(axis=1) >= difference
        return in_order(results, options)

    def _best(
        self,
        networks: ActionNetworks,
        state: int,
        pins: Pins,
        valued: Valued | None = None,
        left: BoolArray | None = None,
        screen: _Screened | None = None,
    ) -> Answer:
        """Return the best feasible action, the first of equals.

        Parameters
        ----------
        networks, state, pins
            Of which state.
        valued
            The rough values of all actions within the pins, if they are known.
        left
            Which of these to take it from, some at least; ``None`` for all.
        screen
            The actions that bounds have left, if they were screened.

        Raises
        ------
        CertificationError
            If an action is worth more than the bound that it was kept for.
        """
        begin = time.perf_counter() if screen is None else screen.begin
        held = pins[state]
        within = self._within(held) if screen is None else screen.within
        places = within if screen is None else screen.places
        n = len(self._actions) if within is None else len(within)
        if not n:
            return Answer.empty(self._problem(networks, state, pins), begin, "empty set")
        problem = replace(self._problem(networks, state, Pins()), pins=held)
        network = problem.network
        rough, dtype = valued or self._valued(networks, state, places)
        error = self._error(network, dtype) if screen is None else screen.error
        # Not below, so that a network that overflows float32 is valued in float64 altogether.
        highest = rough.max() if left is None else rough[left].max()
        among = ~(rough < highest - 2 * error)
        candidates = np.flatnonzero(among if left is None else among & left)
        ends = np.array([np.argmin(rough)])
        if places is not None:
            candidates, ends = places[candidates], places[ends]
        if screen is not None:
            if (rough > screen.upper).any():
                raise CertificationError(
                    f"{self.name} gave a wrong answer: an action is worth {rough.max()!r}, above a"
                    " bound that others were ruled out by"
                )
            ends = np.array([screen.lowest])
        values = network.forward(self._actions[candidates])[:, 0]
        best = int(np.argmax(values))
        action = self._actions[candidates[best]].copy()
        # The spread of these is the true one, or if actions were ruled out, not more than that.
        ends = self._actions[[candidates[best], *ends]]
        rounding = error if dtype is np.float64 else error * _FLOAT64_PER_FLOAT32
        problem = replace(problem, sample=ends, rounding=rounding)
        bound = max(problem.value(action), float(values[best]))
        seconds = time.perf_counter() - begin
        message = (
            f"evaluated {'all' if len(rough) == n else f'{len(rough)} of'} {n} feasible actions"
        )
        if within is not None:
            message += f" within the masks, of {len(self._actions)}"
        if len(rough) < n:
            message += "; bounds rule out the others"
        return Answer(problem, action, bound, seconds, len(rough), message=message, exhaustive=True)

    def _error(self, network: Network, dtype: type[np.floating[Any]]) -> float:
        return _rounding(network, self._largest, np.finfo(dtype))

    def _valued(self, networks: ActionNetworks, state: int, places: IntArray | None) -> Valued:
        """Value the actions at some places roughly for one of several states."""
        own, at = networks.centred, state
        if any(weight.ndim == 3 for layer in own.layers for _, weight in layer.inputs):
            own, at = own[state], 0
        return self._rough_values(own, at, places)

    def _within(self, pins: Pins) -> IntArray | None:
        """Return which listed actions are within one row of pins, ``None`` for all."""
        if pins.empty:
            return None
        found = np.ones(len(self._actions), dtype=bool)
        for mask, value in ((pins.one, 1), (pins.zero, 0)):
            for i in [] if mask is None else np.flatnonzero(mask):
                found &= self._columns[i] == value
        return np.flatnonzero(found)

    @cached_property
    def _columns(self) -> ActionArray:
        """The listed actions, variable by variable."""
        return np.ascontiguousarray(self._actions.T)

    def _rough_values(self, network: ActionNetworks, state: int, places: IntArray | None) -> Valued:
        """Value the actions at some places, in float32 where the network's weights allow that."""
        known = self._rough_of(network)
        n = len(self._actions) if places is None else len(places)
        values = np.empty(n, dtype=known.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            layers = [
                ActionLayer(
                    inputs,
                    np.asarray(
                        (layer.bias if layer.bias.ndim == 1 else layer.bias[state]).astype(
                            known.dtype
                        )
                    ),
                )
                for inputs, layer in zip(known.inputs, network.layers, strict=True)
            ]
            batch = max(_BATCH_ENTRIES // network.widest, 1)
            for i in range(0, n, batch):
                own = slice(i, i + batch)
                rows = own if places is None else places[own]
                products = {
                    depth: self._multiplied(rows, dict(known.inputs[depth])[INPUT])
                    if all_ is None
                    else all_[rows]
                    for depth, all_ in known.products.items()
                }
                values[own] = evaluated(layers, products, _NO_STATES)[-1][:, 0]
        return values, known.dtype

    def _rough_of(self, network: ActionNetworks) -> _Rough:
        known = self._rough
        if known is None or not known.serves(network):
            known = self._rough = self._new_rough(network)
            self._missed = 0
        return known

    def _new_rough(self, network: ActionNetworks) -> _Rough:
        dtype = np.float32 if _narrow(network, self._largest) else np.float64
        weights = [[weight for _, weight in layer.inputs] for layer in network.layers]
        inputs = tuple(
            tuple((source, weight.astype(dtype)) for source, weight in layer.inputs)
            for layer in network.layers
        )
        products: dict[int, RoughArray | None] = {}
        for depth, weight in network.direct.items():
            kept = len(self._actions) * len(weight) <= _KEPT_ENTRIES
            own = dict(inputs[depth])[INPUT]
            products[depth] = self._multiplied(slice(None), own) if kept else None
        return _Rough(weights, dtype, inputs, products)

    def _multiplied(self, rows: slice | IntArray, weight: RoughArray) -> RoughArray:
        return np.asarray(self._actions[rows].astype(weight.dtype) @ weight.T)


@dataclass(frozen=True, eq=False)
class _Rough:
    """Weights in the precision of the first pass, and the actions' part of what takes them.

    They serve all states that share the weights.
    """

    weights: list[list[FloatArray]]
    dtype: type[np.float32 | np.float64]
    inputs: tuple[tuple[tuple[int, RoughArray], ...], ...]
    products: dict[int, RoughArray | None]

    @cached_property
    def ends(self) -> tuple[FloatArray, FloatArray]:
        """Least and largest products of the actions with the first layer's weights."""
        products = self.products[0]
        assert products is not None
        return products.min(axis=0).astype(float), products.max(axis=0).astype(float)

    def serves(self, network: ActionNetworks) -> bool:
        """Whether a network has the very weights."""
        return len(self.weights) == len(network.layers) and all(
            len(own) == len(layer.inputs)
            and all(weight is other for weight, (_, other) in zip(own, layer.inputs, strict=True))
            for own, layer in zip(self.weights, network.layers, strict=True)
        )


@dataclass(frozen=True, eq=False)
class _Screened:
    """What bounds have left of the listed actions for one state.

    Parameters
    ----------
    begin
        When it was begun.
    within
        Places of the actions within the pins, ``None`` for all.
    places
        Of those among them that may be the best.
    upper
        Bounds on their rough values.
    lowest
        The place of the action that is bounded lowest.
    error
        Of the rough values.
    """

    begin: float
    within: IntArray | None
    places: IntArray
    upper: RoughArray
    lowest: int
    error: float


def _narrow(network: ActionNetworks, largest: FloatArray) -> bool:
    """Whether float32 keeps its precision for the inputs, the weights and their products."""
    sizes = [largest]
    sizes += [np.abs(w[w != 0]) for layer in network.layers for _, w in layer.inputs]
    sizes += [np.cumprod([size.max(initial=1.0) for size in sizes])]
    return all(((s > _FLOAT32[0]) & (s < _FLOAT32[1])).all() for s in sizes)


def _rounding(network: Network, largest: FloatArray, kind: np.finfo[Any]) -> float:
    """Bound the error of a value in an arithmetic, whatever the action: sums of absolute terms.

    And what products below its smallest numbers lose.
    """
    sizes, lost = {INPUT: largest}, {INPUT: np.zeros(len(largest))}
    operations, smallest = 0, 2 * float(kind.smallest_subnormal)
    for depth, layer in enumerate(network.layers):
        size, own = np.abs(layer.bias), np.full(len(layer.bias), smallest)
        for source, weight in network.inputs(depth):
            size = size + np.abs(weight) @ sizes[source]
            own = own + np.abs(weight) @ lost[source] + smallest * weight.shape[1]
            operations += weight.shape[1] + 2
        sizes[depth], lost[depth] = size, own
    return float(size[0]) * operations * float(kind.eps) + float(own[0])
