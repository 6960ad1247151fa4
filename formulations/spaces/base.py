"""What every action space is: the contract, and defaults that hold for any linear block.

An action is a vector over ``n_actions`` actions (arms): whole numbers between the bounds
:attr:`ActionSpace.lower` and :attr:`ActionSpace.upper`, 0 and 1 if the space says nothing else, but
for the variables that it says are :attr:`ActionSpace.continuous`. A space knows the feasible
vectors in three forms at once: as Pyomo constraints (:meth:`ActionSpace.constrain`), as an
independent check (:meth:`ActionSpace.violations`), and as an oracle for linear objectives
(:meth:`ActionSpace.linear_max`). The first two must accept exactly the same actions.

A new block needs ``n_actions``, ``constrain``, ``violations`` and ``to_dict``; everything else has
a default that is right, if not fast.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import LARGEST
from milp_rl.formulations.files import place_of_key, read_json, write_json
from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.milp.linear_model import LinearModel, compile_pyomo
from milp_rl.formulations.native import add_space, native_model
from milp_rl.formulations.pyomo_blocks import block_for, only_adding
from milp_rl.formulations.spaces.description import described, steps_to
from milp_rl.formulations.spaces.listing import built, check_limit, counted_up, grown
from milp_rl.formulations.spaces.oracles.lp import LinearOracle
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.rows import reachable
from milp_rl.formulations.spaces.sampling import built_at_random, mixture, moved
from milp_rl.formulations.time_limit import LateError, check_time, is_late, seconds_left, until

if TYPE_CHECKING:
    from milp_rl.formulations.spaces.region import Region

_REMEMBERED = 100_000  # partial actions whose extensions are kept,
_REMEMBERED_BYTES = 200_000_000  # and as many as take this
_REBUILT = (
    "_oracle",
    "_best_walks",
    "_extensions_of",
    "_few",
    "known_actions",
    "exact_rows",
)  # rather than pickled
INTEGRALITY = 1e-6  # by which an integer variable may differ from a whole number
_BEYOND = 1e-6  # by which a continuous one may be beyond a bound, relative to it if above 1
_FEW = 4096  # vectors of whole numbers within the bounds, of which all are looked at
_MANY = 1000  # binary variables
_KNOWN = 256  # feasible actions drawn to test answers with
_KNOWN_SHARE = 0.3  # of a time limit, after which no more are drawn or tested
_DRAWS = 20  # of vertices, until their whole numbers leave the others room
_KNOWN_ONE_BY_ONE = 64  # of a space that draws them one after another


class ActionSpace(ABC):
    r"""A feasible set over ``n_actions`` action variables, binary unless it says otherwise.

    .. math:: A = \{x : \text{there is } z \text{ with } F x + G z \le d,\; l \le x \le u,\;
              x_i \in \mathbb{Z} \text{ where not continuous}\},

    with auxiliary variables z, continuous or integer, that only the model has. Spaces over the
    same variables are intersected by ``a & b`` and united by ``a | b``, spaces over different ones
    multiplied by ``a * b``.

    Examples
    --------
    A block of one's own, here an implication, has four members; all else follows from them:

    >>> import milp_rl as mr
    >>> import pyomo.environ as pyo
    >>> class Implies(mr.ActionSpace):
    ...     '''The first of three actions only together with the second.'''
    ...
    ...     n_actions = 3
    ...
    ...     def constrain(self, block, actions):
    ...         block.implied = pyo.Constraint(expr=actions[0] <= actions[1])
    ...
    ...     def violations(self, action):
    ...         a = self.check_action(action)
    ...         return ["action 0 is chosen without action 1"] if a[0] > a[1] else []
    ...
    ...     def to_dict(self):
    ...         return {"type": "Implies"}
    >>> space = Implies() & mr.BudgetTopK(3, 1)
    >>> space.violations([1, 0, 0])
    ['action 0 is chosen without action 1']
    >>> network = mr.Network.from_arrays([[[3.0, 1.0, 2.0]]], [[0.0]])
    >>> result = mr.argmax(network, [], space)
    >>> result.action, result.value, result.status
    (array([0, 0, 1], dtype=int8), 2.0, 'optimal')
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Let what repeats a block's check or oracle in another form not outlive it."""
        super().__init_subclass__(**options)
        own = vars(cls)
        if "constrain" in own:
            setattr(cls, "constrain", only_adding(own["constrain"]))  # noqa: B010
        if "violations" in own:
            for name in ("feasible", "_open"):
                if name not in own:
                    setattr(cls, name, getattr(ActionSpace, name))
        repeated = ("violations", "linear_max", "maximizers", "_linear_max", "_maximizers")
        if any(name in own for name in repeated):
            for name in ("compiled_oracle", "left_out_by"):
                if name not in own:
                    setattr(cls, name, getattr(ActionSpace, name))

    @property
    @abstractmethod
    def n_actions(self) -> int:
        """Number of action variables."""

    @abstractmethod
    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the constraints on ``actions``, and all auxiliary variables, onto ``block``.

        Parameters
        ----------
        block
            An empty Pyomo block (or model) of this space's own.
        actions
            ``n_actions`` Pyomo variables, on any block: binary, integer or continuous as the
            space's own are, within its bounds.
        """

    @abstractmethod
    def violations(self, action: ArrayLike) -> list[str]:
        """Check one action without any solver.

        Returns
        -------
        list of str
            Empty if feasible; otherwise which constraints are violated, and the excess of each.

        Raises
        ------
        ValueError
            If ``action`` has not length ``n_actions``, or a binary variable is not 0 or 1, an
            integer one no whole number.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, ``{"type": class name, parameter: value, ...}``."""

    @property
    def continuous(self) -> BoolArray:
        """Which variables are continuous, shape (n_actions,); by default none."""
        return np.zeros(self.n_actions, dtype=bool)

    @property
    def lower(self) -> FloatArray:
        """Finite lower bounds of the variables, shape (n_actions,); by default zeros."""
        return np.zeros(self.n_actions)

    @property
    def upper(self) -> FloatArray:
        """Finite upper bounds of the variables, shape (n_actions,); by default ones."""
        return np.ones(self.n_actions)

    @cached_property
    def integer(self) -> BoolArray:
        """Which variables are integer and not binary, shape (n_actions,).

        Those that are not continuous, with a bound outside [0, 1].
        """
        return ~self.continuous & ((self.lower < 0) | (self.upper > 1))

    @cached_property
    def binary(self) -> bool:
        """Whether every variable is binary."""
        return not (self.continuous | self.integer).any()

    @cached_property
    def dtype(self) -> np.dtype[np.int8] | np.dtype[np.int64] | np.dtype[np.float64]:
        """Of actions: int8 if all are binary, float64 with continuous variables, else int64."""
        if self.binary:
            return np.dtype(np.int8)
        return np.dtype(np.float64) if self.continuous.any() else np.dtype(np.int64)

    @property
    def exact(self) -> bool:
        """Whether :meth:`linear_max` gives the true maximum rather than an upper bound on it."""
        return False

    @property
    def down_closed(self) -> bool:
        """Whether a feasible action stays feasible when any of its ones is set to zero."""
        return False

    @property
    def compiled_oracle(self) -> CompiledOracle | None:
        """:meth:`linear_max` for compiled loops, where there is one; by default ``None``."""
        return None

    def left_out_by(self, other: ActionSpace) -> BoolArray | None:
        """Return the variables that another space holds at zero, being the same otherwise.

        What differs from call to call then is a mask, and many calls are solved together.

        Returns
        -------
        numpy.ndarray or None
            Boolean, shape (n_actions,); ``None`` where the other is not known to be this space with
            variables held at zero.
        """
        return None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ActionSpace:
        """Rebuild a space from :meth:`to_dict`.

        A block whose constructor takes the same names as ``to_dict`` gives needs no ``from_dict``
        of its own.

        Raises
        ------
        ValueError
            If the type is unknown or a parameter is missing or wrong.
        """
        return described(ActionSpace, data)  # type: ignore[type-abstract]

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self:
        return cls(**parameters)

    def to_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON; the file appears whole or not at all."""
        write_json(path, self.to_dict())

    @staticmethod
    def from_json(path: str | Path) -> ActionSpace:
        """Read a space written by :meth:`to_json`.

        Raises
        ------
        ValueError
            If the file is not JSON or not an action space.
        """
        data = read_json(path)
        try:
            return ActionSpace.from_dict(data)
        except ValueError as error:
            steps = steps_to(str(error), data)
            raise ValueError(f"{place_of_key(path, *steps)}: {error}") from error

    def decode(self, action: ArrayLike) -> Any:
        """Return a feasible action as values that a person reads.

        Blocks say what an action stands for: the route in order, the worker of each arm. The
        default gives the numbers of the chosen actions, or, where variables are not binary, the
        values that are not zero by their numbers.

        Raises
        ------
        ValueError
            If the action has a wrong shape or value, or is not feasible and cannot be read.
        """
        a = self.check_action(action)
        chosen = np.flatnonzero(a).tolist()
        return chosen if self.binary else {i: a[i].item() for i in chosen}

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space with one unit more of each of its limits, by what the limit is.

        Budgets, capacities, slots: what :meth:`.ArgmaxSolver.what_if` prices. By default none.
        """
        return {}

    def _with(self, **parameters: Any) -> Self:
        """Return the space with other parameters."""
        known = {name: value for name, value in self.to_dict().items() if name != "type"}
        return self._from_parameters({**known, **parameters})

    def add_to(self, block: Any, actions: Sequence[Any] | None = None) -> list[Any]:
        """Add the space to a Pyomo block, a gurobipy model or a PySCIPOpt model.

        Parameters
        ----------
        block
            A Pyomo block or model; or a ``gurobipy.Model`` or ``pyscipopt.Model``, which gets the
            rows of :attr:`linear_model`. An empty block gets rows and variables itself; a model,
            or a block with components, a new block ``embedded_space`` for them.
        actions
            Existing variables to constrain, in order, binary and integer where the space is;
            without, they are created, in Pyomo as ``block.action``.

        Returns
        -------
        list
            The ``n_actions`` variables.

        Raises
        ------
        ValueError
            If the number of variables is wrong, or one of gurobipy's or PySCIPOpt's is no variable
            of the kind that the space has there.
        """
        given = None if actions is None else list(actions)
        if given is not None and len(given) != self.n_actions:
            raise ValueError(f"the space has {self.n_actions} actions, got {len(given)} variables")
        native = native_model(block)
        if native is not None:
            return add_space(native, self, given)
        if given is None and block.component("action") is not None:
            raise ValueError(
                f"{block.name} has a component named 'action' already: give the space an empty"
                " block, such as model.space = pyo.Block(), or the variables to constrain"
            )
        own = block_for(block, "embedded_space")
        if given is None:
            lower, upper = self.lower, self.upper
            domains = (pyo.Binary, pyo.Integers, pyo.Reals)
            kinds = np.where(self.continuous, 2, self.integer.astype(int)).tolist()
            block.action = pyo.Var(
                range(self.n_actions),
                domain=lambda _, i: domains[kinds[i]],
                bounds=lambda _, i: (float(lower[i]), float(upper[i])),
            )
            given = list(block.action.values())
        self.constrain(own, given)
        own.milp_rl_space = (self, given)
        return list(given)

    def linear_max(self, coefficients: ArrayLike, pins: Pins | None = None) -> FloatArray:
        """Bound ``max coefficients @ action`` over the space from above, batched.

        Parameters
        ----------
        coefficients
            Shape (batch, n_actions).
        pins
            Binary actions held at one or zero.

        Returns
        -------
        numpy.ndarray
            Shape (batch,); never below the true maximum, equal to it if :attr:`exact`;
            ``-inf`` where the pins are found to leave no feasible action.

        Raises
        ------
        ValueError
            If a shape is wrong.
        """
        c, held = self._checked(coefficients, pins)
        return self._linear_max(c, held)

    def maximizers(self, coefficients: ArrayLike, pins: Pins | None = None) -> FloatArray:
        """Return a point behind each value of :meth:`linear_max`, fractional in a relaxation.

        Branch and bound takes them for directions in which to tighten a bound and for candidates,
        which it checks: nothing depends on their being right.

        Parameters
        ----------
        coefficients, pins
            As for :meth:`linear_max`.

        Returns
        -------
        numpy.ndarray
            Shape (batch, n_actions), within the bounds; anything where the pins leave no action.
        """
        c, held = self._checked(coefficients, pins)
        return self._maximizers(c, held)

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Bound the maxima of checked objectives; here by the linear relaxation of the block."""
        return self._oracle.maxima(c, pins.one, pins.zero)

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return points behind :meth:`_linear_max`."""
        return self._oracle.maximizers(c, pins.one, pins.zero)

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw random feasible actions.

        Parameters
        ----------
        rng
            Source of randomness.
        n
            How many, drawn independently.
        maximal
            Keep adding actions while any fits, as a policy that spends its whole budget does;
            otherwise every feasible action has positive probability. It plays no part where
            variables are not binary: there, vertices of the set in random directions are mixed,
            and whole numbers moved one after another, or drawn from a list of few actions.

        Returns
        -------
        numpy.ndarray
            Shape (n, n_actions), of the space's :attr:`dtype`.
        """
        drawn: ActionArray = np.zeros((n, self.n_actions), dtype=self.dtype)
        for row in range(n):
            check_time()
            drawn[row] = self._sample_one(rng, maximal)
        return drawn

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Draw one action: built at random, or mixed where variables are not binary."""
        if self._few is not None:
            if not len(self._few):
                raise ValueError("the space has no feasible action to sample")
            return np.asarray(self._few[rng.integers(len(self._few))])
        if not self.binary:
            lower, upper = self.lower, self.upper
            for _ in range(_DRAWS):
                mixed = np.clip(mixture(self._oracle, self.continuous, rng), lower, upper)
                first: ActionArray = mixed.astype(self.dtype)
                settled, met = self.settled(first[None])
                if met[0]:
                    break
            else:  # whole numbers that leave the others no room
                raise ValueError("the space has no feasible action to sample")
            action = settled[0]
            if self.integer.any():
                action = moved(action, lower, upper, ~self.continuous, self._settles, rng)
                action = self.settled(action[None])[0][0]
            return np.asarray(action)
        return built_at_random(
            self.n_actions, self.violations, self.extensions, rng, maximal=maximal
        )

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the single additions that keep a partial action completable.

        Parameters
        ----------
        action
            Binary vector; may be incomplete (all zeros to start building).

        Returns
        -------
        numpy.ndarray
            Indices ``i`` with ``action[i] == 0`` for which some feasible action contains
            ``action`` and ``i``. Where :attr:`down_closed`, those for which the sum itself is
            feasible.

        Raises
        ------
        ValueError
            If a variable is not binary.
        """
        self.require_binary("built one by one")
        a = self.check_action(action)
        result = []
        for i in np.flatnonzero(a == 0):
            a[i] = 1
            if not self.violations(a) if self.down_closed else self.completable(a):
                result.append(i)
            a[i] = 0
        return np.array(result, dtype=np.intp)

    def extension_masks(self, actions: ActionArray) -> tuple[BoolArray, BoolArray]:
        """Return :meth:`extensions` of many partial actions, and which are feasible as they are.

        The default asks for one after another, and remembers the answers.

        Parameters
        ----------
        actions
            Shape (batch, n_actions), int8, zeros and ones.

        Returns
        -------
        tuple of numpy.ndarray
            The additions, boolean, shape (batch, n_actions), and feasibility, shape (batch,).
        """
        masks = np.zeros(actions.shape, dtype=bool)
        feasible = np.zeros(len(actions), dtype=bool)
        for row, action in enumerate(actions):
            additions, feasible[row] = self._extensions_of(action.tobytes())
            masks[row, additions] = True
        return masks, feasible

    def completable(self, action: ArrayLike) -> bool:
        """Whether some feasible action contains all ones of ``action``.

        The default asks HiGHS for a feasible point of the block.
        """
        a = self.check_action(action)
        if not self.violations(a):
            return True
        return not self.down_closed and self._oracle.feasible(a.astype(bool))

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List every feasible action, in an order that is always the same.

        Parameters
        ----------
        limit
            Largest number of actions to list.

        Returns
        -------
        numpy.ndarray
            Shape (count, n_actions), of the space's :attr:`dtype`.

        Raises
        ------
        ValueError
            If there are more than ``limit``, or a variable is continuous.
        """
        self.require_countable()
        if not self.binary:
            return counted_up(self.lower, self.upper, self.feasible, self._open, limit)
        rows = None
        if self.down_closed or type(self)._open is not ActionSpace._open:
            rows = grown(
                self.n_actions,
                self.feasible,
                self._open,
                down_closed=self.down_closed,
                limit=limit,
                variables=self._choosable(),
            )
        if rows is None:
            rows = built(self.n_actions, self.violations, self.extensions, limit)
        check_limit(len(rows), limit)
        return rows

    def _choosable(self) -> Sequence[int]:
        """Return the variables that may be 1 as far as is known at once, in order."""
        return range(self.n_actions)

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check many actions at once.

        Parameters
        ----------
        actions
            Shape (batch, n_actions), of whole numbers where variables are not continuous.

        Returns
        -------
        numpy.ndarray
            Where :meth:`violations` finds none, shape (batch,).
        """
        found = np.array(~self.outside_domains(actions).any(axis=1))
        found[found] = [not self.violations(action) for action in actions[found]]
        return found

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell which partial actions may be completed by their variables from ``decided`` on.

        False only where no completion is feasible. Those variables are zero now; what is asked for
        with one variable less decided has been found open, then with a zero in its place.
        """
        if not self.binary:
            return reachable(self.linear_model, actions, decided)
        found = np.ones(len(actions), dtype=bool)
        if self.down_closed:
            new = actions[:, decided - 1] == 1
            found[new] = self.feasible(actions[new])
        return found

    def count(self, limit: int = 100_000) -> int:
        """Count the feasible actions; raises ``ValueError`` beyond ``limit`` if it must list."""
        return len(self.enumerate(limit))

    @property
    def count_bound(self) -> float:
        """No more actions than this are feasible, as is seen at once; it may be infinite.

        Here the vectors of whole numbers within the bounds.
        """
        if self.binary:
            return 2.0**self.n_actions if self.n_actions < _MANY else math.inf
        sizes = np.where(self.continuous, math.inf, self.upper - self.lower + 1.0)
        return float(np.prod(np.maximum(sizes, 0.0)))

    @property
    def counts_quickly(self) -> bool:
        """Whether :meth:`count` takes next to no time: by a closed form, or in array operations."""
        own = type(self)
        return self.down_closed and (
            own._open is not ActionSpace._open or own.feasible is not ActionSpace.feasible
        )

    @property
    def oracle_seconds(self) -> float:
        """Estimated time of :meth:`linear_max` per objective where it is milliseconds, else 0."""
        return 0.0

    def check_action(self, action: ArrayLike) -> ActionArray:
        """Return a copy of ``action`` in the space's :attr:`dtype`.

        Raises
        ------
        ValueError
            If the shape is wrong, a binary variable is not 0 or 1, an integer one more than 1e-6
            from a whole number, or a continuous one not finite.
        """
        a = np.asarray(action)
        if a.shape != (self.n_actions,):
            raise ValueError(f"an action has shape ({self.n_actions},), got {a.shape}")
        wrong = self.outside_domains(a)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            wanted = "a whole number" if self.integer[i] else "0 or 1"
            wanted = "finite" if self.continuous[i] else wanted
            kind = "actions are" if self.binary else "this variable is"
            raise ValueError(f"action[{i}] is {np.asarray(action)[i]}, but {kind} {wanted}")
        if not self.binary:
            a = np.where(self.integer, np.rint(a), a)
        checked: ActionArray = a.astype(self.dtype)
        return checked

    def outside_domains(self, actions: ArrayLike) -> BoolArray:
        """Mark the entries that are not what their variables can be, as :meth:`check_action`.

        Parameters
        ----------
        actions
            Numbers, shape (..., n_actions).
        """
        a = np.asarray(actions)
        wrong = (a != 0) & (a != 1)
        if not self.binary:
            x = a.astype(np.float64)
            whole = np.rint(np.where(np.abs(x) <= LARGEST, x, 0.0))
            wrong = np.where(self.integer, ~(np.abs(x - whole) <= INTEGRALITY), wrong)
            wrong = np.where(self.continuous, ~np.isfinite(x), wrong)
        return np.asarray(wrong)

    def rounded(self, point: FloatArray) -> ActionArray:
        """Return a solver's point, shape (n_actions,), as an action within the bounds.

        What is not continuous is rounded to whole numbers, the rest settled (:meth:`settled`).
        """
        return np.asarray(self.settled(self._rounded(point)[None])[0][0])

    def _rounded(self, point: FloatArray) -> ActionArray:
        """Round a solver's point, without a look at the rows."""
        if self.binary:
            return np.asarray(np.rint(point).astype(np.int8))
        whole = np.where(self.continuous, point, np.rint(point) + 0.0)
        return np.asarray(np.clip(whole, self.lower, self.upper).astype(self.dtype))

    @cached_property
    def exact_rows(self) -> Region | None:
        """The set as rows over its variables; ``None`` without continuous ones, or with others."""
        from milp_rl.formulations.spaces.region import Region

        return Region.of(self) if self.continuous.any() else None

    def settled(self, actions: ActionArray) -> tuple[ActionArray, BoolArray]:
        """Move the continuous variables of actions into rows that they are beyond.

        Parameters
        ----------
        actions
            Of the space's :attr:`dtype`, within the bounds, shape (batch, n_actions).

        Returns
        -------
        tuple of numpy.ndarray
            The actions, and which of them then meet the rows; all of them, as they are, where rows
            have other variables, or no continuous one.
        """
        if self.exact_rows is None:
            return actions, np.ones(len(actions), dtype=bool)
        return self.exact_rows.settled(np.asarray(actions, dtype=np.float64))

    def met_exactly(self, actions: ActionArray) -> BoolArray:
        """Tell which feasible actions are so without the tolerance that rows are checked with.

        Parameters
        ----------
        actions
            As for :meth:`settled`, feasible.
        """
        if self.exact_rows is None:
            return np.ones(len(actions), dtype=bool)
        return self.exact_rows.exact(np.asarray(actions, dtype=np.float64))

    def _settles(self, actions: ActionArray) -> BoolArray:
        """Tell which actions are feasible once they are settled."""
        found = self.feasible(actions)
        found[found] = self.settled(actions[found])[1]
        return found

    def outside_bounds(self, action: ArrayLike) -> list[str]:
        """Say which variables are beyond their bounds, and by how much, as :meth:`violations` does.

        Continuous variables may be beyond by 1e-6, relative to a bound above 1.
        """
        x = np.asarray(self.check_action(action), dtype=np.float64)
        lower, upper, found = self.lower, self.upper, []
        for i in np.flatnonzero((x < lower) | (x > upper)):
            low, high = lower[i], upper[i]
            beyond = max(low - x[i], x[i] - high)
            if beyond > _BEYOND * max(1.0, abs(low), abs(high)) or not self.continuous[i]:
                found.append(f"x[{i}] = {x[i]:g} is outside [{low:g}, {high:g}] by {beyond:g}")
        return found

    def __and__(self, other: ActionSpace) -> ActionSpace:
        """Intersect two spaces over the same actions."""
        if not isinstance(other, ActionSpace):
            return NotImplemented
        from milp_rl.formulations.spaces.intersection import Intersection

        return Intersection([self, other])

    def __or__(self, other: ActionSpace) -> ActionSpace:
        """Unite two spaces over the same actions."""
        if not isinstance(other, ActionSpace):
            return NotImplemented
        from milp_rl.formulations.spaces.union import Union

        return Union([self, other])

    def __mul__(self, other: ActionSpace) -> ActionSpace:
        """Put two spaces over different variables side by side."""
        if not isinstance(other, ActionSpace):
            return NotImplemented
        from milp_rl.formulations.spaces.product import Product

        return Product([self, other])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionSpace) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __repr__(self) -> str:
        parameters = (f"{k}={v!r}" for k, v in self.to_dict().items() if k != "type")
        return f"{type(self).__name__}({', '.join(parameters)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded solver and what it found out of pickles; it is rebuilt when needed."""
        return {k: v for k, v in self.__dict__.items() if k not in _REBUILT}

    def parts(self) -> list[tuple[ActionSpace, slice]]:
        """Return the blocks that the space is composed of, and the variables that each is over."""
        return [(self, slice(None))]

    @cached_property
    def _few(self) -> ActionArray | None:
        """All actions of a space with integer and no continuous variables, if these are few."""
        if self.binary or self.continuous.any():
            return None
        sizes = np.maximum(self.upper - self.lower + 1.0, 0.0)
        return self.enumerate(_FEW) if np.prod(sizes) <= _FEW else None

    @property
    def drawn_together(self) -> bool:
        """Whether :meth:`sample` draws many actions in less time than one after another."""
        return type(self).sample is not ActionSpace.sample

    @cached_property
    def known_actions(self) -> ActionArray:
        """Feasible actions, drawn once, with which solvers test their answers.

        Shape (any, n_actions): 256, half of them maximal; 64 of a space that draws them one by one;
        fewer where a time limit passes, none of an empty space.

        Raises
        ------
        ContradictionError
            If the space's own methods disagree about them.
        """
        from milp_rl.formulations.spaces.contradictions import check_consistent

        rng = np.random.default_rng(0)
        half = (_KNOWN if self.drawn_together else _KNOWN_ONE_BY_ONE) // 2
        drawn: list[ActionArray] = []
        with until(time.perf_counter() + _KNOWN_SHARE * seconds_left()):
            try:
                for maximal in (False, True):
                    drawn.append(self._drawn_in_time(rng, half, maximal=maximal))
            except ValueError:  # nothing feasible to sample
                drawn = []
            known = np.concatenate([np.zeros((0, self.n_actions), dtype=self.dtype), *drawn])
            check_consistent(self, known)
        return known

    def _drawn_in_time(self, rng: np.random.Generator, n: int, *, maximal: bool) -> ActionArray:
        """Draw n actions; with a time limit, as many as half of what is left allows."""
        if not math.isfinite(seconds_left()):
            return self.sample(rng, n, maximal=maximal)
        drawn: list[ActionArray] = [np.zeros((0, self.n_actions), dtype=self.dtype)]
        with until(time.perf_counter() + seconds_left() / 2):
            try:
                while (missing := n - sum(map(len, drawn))) and not is_late():
                    drawn.append(self.sample(rng, min(missing, len(drawn)), maximal=maximal))
            except LateError:
                pass
        return np.concatenate(drawn)

    @cached_property
    def linear_model(self) -> LinearModel:
        """The block compiled to arrays; its first ``n_actions`` columns are the actions."""
        model = pyo.ConcreteModel()
        compiled, _ = compile_pyomo(model, self.add_to(model))
        return compiled

    @cached_property
    def _oracle(self) -> LinearOracle:
        return LinearOracle(self.linear_model, self.n_actions)

    @cached_property
    def _extensions_of(self) -> Callable[[bytes], tuple[NDArray[np.intp], bool]]:
        def find(key: bytes) -> tuple[NDArray[np.intp], bool]:
            action = np.frombuffer(key, dtype=np.int8)
            return self.extensions(action), not self.violations(action)

        # An action takes one byte per entry; its additions take eight.
        return lru_cache(min(_REMEMBERED, _REMEMBERED_BYTES // (9 * self.n_actions)))(find)

    def _checked(self, coefficients: ArrayLike, pins: Pins | None) -> tuple[FloatArray, Pins]:
        """Check the arguments of ``linear_max``; pins come back of its shape."""
        c = np.asarray(coefficients, dtype=np.float64)
        if c.ndim != 2 or c.shape[1] != self.n_actions:
            raise ValueError(
                f"coefficients must have shape (batch, {self.n_actions}), got {c.shape}"
            )
        return c, (pins or Pins()).checked(c.shape)

    def require_binary(self, use: str) -> None:
        """Raise ``ValueError`` if a variable is not binary, as actions then cannot be ``use``."""
        if not self.binary:
            raise ValueError(f"the space has {self.domains}: its actions cannot be {use}")

    def require_countable(self) -> None:
        """Raise ``ValueError`` if a variable is continuous, as actions then cannot be listed."""
        if self.continuous.any():
            self.require_binary("listed")

    @property
    def domains(self) -> str:
        """How many of the variables are continuous, and how many integer, for messages."""
        counts = [("continuous", self.continuous.sum()), ("integer", self.integer.sum())]
        return " and ".join(f"{n} {kind}" for kind, n in counts if n) + " variables"
