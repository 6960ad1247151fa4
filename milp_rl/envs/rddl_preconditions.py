r"""What an RDDL domain allows in a state, as linear constraints on its ground actions.

A precondition is evaluated at the state, quantifiers written out, so that what is left of it has
actions alone: truth values, affine terms and comparisons of such, joined by *and* and *or*. In
conjunctive normal form, a clause of literals is the row

.. math:: \sum_{i \in P} a_i + \sum_{j \in N} (1 - a_j) \ge 1,

and a clause of one comparison :math:`c^\top x \le r` and literals, with M the least that
the bounds give, the row

.. math:: c^\top x \le r + M\,(\text{number of literals that hold}).

Anything else is refused by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.rddl_actions import GroundActions
from milp_rl.formulations.arrays import FloatArray

_MOST_CLAUSES = 10_000
_STRICT = 1e-5  # by which a strict inequality is tightened, as pyRDDLGym does for bounds
_WHOLE = 1e-9


class NotLinearError(ValueError):
    """A constraint that is not recognised as linear in the actions."""


@dataclass(frozen=True)
class Affine:
    """A constant and a sum of coefficients times actions."""

    coefficients: Mapping[int, float]
    constant: float


@dataclass(frozen=True)
class Literal:
    """A binary action that is one, or zero."""

    action: int
    value: bool


@dataclass(frozen=True)
class AtMost:
    """``coefficients . x <= right``, or less than it."""

    coefficients: Mapping[int, float]
    right: float
    strict: bool


@dataclass(frozen=True)
class Junction:
    """Formulas of which all, or any, hold."""

    every: bool
    parts: tuple[Any, ...]


Formula = bool | Literal | AtMost | Junction


@dataclass(frozen=True)
class Chosen:
    """The object that an action has for its value: the place of the variable that is one."""

    variables: tuple[int, ...]


class Preconditions:
    """The constraints of an RDDL model on its actions.

    Parameters
    ----------
    model
        A ``pyRDDLGym.core.compiler.model.RDDLLiftedModel``.
    constraints
        Expressions that must hold, with what to call them.
    values
        Arrays of the non-fluents.
    actions
        The ground actions.

    Attributes
    ----------
    fluents
        Names of the state fluents that the constraints depend on.
    """

    def __init__(
        self,
        model: Any,
        constraints: Sequence[tuple[str, Any]],
        values: Mapping[str, Any],
        actions: GroundActions,
    ) -> None:
        self._model = model
        self._actions = actions
        self._values = dict(values)
        self._objects = {name: len(objects) for name, objects in model.type_to_objects.items()}
        mentioned = {name: self._mentioned(expression) for name, expression in constraints}
        self._fixed = [(n, e) for n, e in constraints if not mentioned[n]]
        self._varying = [(n, e) for n, e in constraints if mentioned[n]]
        self.fluents = sorted(set().union(*mentioned.values()))

    def always(self) -> list[tuple[str, list[Formula]]]:
        """Return the clauses that hold in every state, with the constraints that they are from."""
        return [self._clauses(name, e, self._values) for name, e in self._fixed]

    def at(self, state: Mapping[str, NDArray[Any]]) -> list[tuple[str, list[Formula]]]:
        """Return the clauses that hold in a state in addition, given its fluents."""
        values = self._values | dict(state)
        return [self._clauses(name, e, values) for name, e in self._varying]

    def _clauses(
        self, name: str, expression: Any, values: Mapping[str, Any]
    ) -> tuple[str, list[Formula]]:
        try:
            found = _Evaluation(self._model, values, self._actions, self._objects)
            return name, _conjuncts(found.formula(expression, {}))
        except NotLinearError as error:
            raise NotLinearError(f"{name}: {error}") from None

    def _mentioned(self, expression: Any) -> set[str]:
        """Return the state fluents in an expression, and in what it is derived from."""
        kind, _ = expression.etype
        found: set[str] = set()
        arguments = expression.args
        if kind == "pvar":
            name, parameters = arguments
            role = self._model.variable_types.get(name)
            if role == "state-fluent":
                found.add(name)
            elif name in self._model.cpfs:
                found |= self._mentioned(self._model.cpfs[name][1])
            arguments = parameters or ()
        if kind != "constant":
            for part in arguments:
                if hasattr(part, "etype"):
                    found |= self._mentioned(part)
        return found


class _Evaluation:
    """Expressions at a state: numbers, truth values, affine terms and formulas."""

    def __init__(
        self,
        model: Any,
        values: Mapping[str, Any],
        actions: GroundActions,
        objects: Mapping[str, int],
    ) -> None:
        self._model = model
        self._values = values
        self._actions = actions
        self._objects = objects

    def formula(self, expression: Any, bound: dict[str, int]) -> Formula:
        """Return what must hold for an expression to be true."""
        found = self.value(expression, bound)
        if isinstance(found, Affine | Chosen | float | int) and not isinstance(found, bool):
            raise NotLinearError("a number is taken for a truth value")
        formula: Formula = found
        return formula

    def affine(self, expression: Any, bound: dict[str, int]) -> Affine:
        """Return an expression as an affine term."""
        return _affine(self.value(expression, bound))

    def value(self, expression: Any, bound: dict[str, int]) -> Any:
        """Return an expression's value."""
        kind, operator = expression.etype
        arguments = expression.args
        if kind == "constant":
            return arguments if isinstance(arguments, bool) else float(arguments)
        if kind == "pvar":
            name, parameters = arguments
            return self._variable(name, parameters, bound)
        if kind == "boolean":
            return self._logical(operator, arguments, bound)
        if kind == "relational":
            left, right = (self.value(argument, bound) for argument in arguments)
            if operator in ("==", "~=") and (isinstance(left, Chosen) or isinstance(right, Chosen)):
                equal = _same(left, right)
                return equal if operator == "==" else _not(equal)
            return _compared(operator, _affine(left), _affine(right), self._actions)
        if kind == "arithmetic":
            return _arithmetic(operator, [self.affine(part, bound) for part in arguments])
        if kind == "aggregation":
            return self._aggregated(operator, arguments, bound)
        if kind == "control" and operator == "if":
            condition = self.formula(arguments[0], bound)
            if isinstance(condition, bool):
                return self.value(arguments[1 if condition else 2], bound)
            first, second = (self.formula(part, bound) for part in arguments[1:])
            return joined(
                True,
                [joined(False, [_not(condition), first]), joined(False, [condition, second])],
            )
        if kind == "func":
            return self._function(operator, arguments, bound)
        raise NotLinearError(f"{kind} {operator} is not supported in a constraint")

    def _variable(self, name: str, parameters: Any, bound: dict[str, int]) -> Any:
        model = self._model
        if name.startswith("?"):
            return float(bound[name])
        if name not in model.variable_types:
            return float(model.object_to_index[model.strip_literal(name)])
        objects = tuple(self._object(parameter, bound) for parameter in parameters or ())
        if name in self._actions.variables:
            own = tuple(int(i) for i in self._actions.of(name, objects))
            if name in self._actions.of_objects:
                return Chosen(own)
            (action,) = own
            if self._actions.binary[action]:
                return Literal(action, True)
            return Affine({action: 1.0}, 0.0)
        if name not in self._values:
            if name not in model.cpfs:
                raise NotLinearError(f"{name} is not known before the action")
            typed, expression = model.cpfs[name]
            inner = {p: i for (p, _), i in zip(typed or (), objects, strict=True)}
            return self.value(expression, inner)
        found = np.asarray(self._values[name]).item(*objects)
        return found if isinstance(found, bool) else float(found)

    def _object(self, parameter: Any, bound: dict[str, int]) -> int:
        if isinstance(parameter, str):
            if parameter.startswith("?"):
                return bound[parameter]
            model = self._model
            return int(model.object_to_index[model.strip_literal(parameter)])
        found = self.value(parameter, bound)
        if not isinstance(found, float):
            raise NotLinearError("an action decides which object is meant")
        return int(found)

    def _logical(self, operator: str, arguments: Any, bound: dict[str, int]) -> Formula:
        if operator in ("^", "&", "|"):
            every, parts = operator != "|", []
            for argument in arguments:
                part = self.formula(argument, bound)
                if part is (not every):
                    return not every
                parts.append(part)
            return joined(every, parts)
        first = self.formula(arguments[0], bound)
        if operator == "~" and len(arguments) == 1:
            return _not(first)
        if operator == "=>" and first is False:
            return True
        second = self.formula(arguments[1], bound)
        if operator == "=>":
            return joined(False, [_not(first), second])
        if operator == "~":  # exclusive or
            second = _not(second)
        return joined(
            True, [joined(False, [_not(first), second]), joined(False, [first, _not(second)])]
        )

    def _aggregated(self, operator: str, arguments: Any, bound: dict[str, int]) -> Any:
        *typed, inner = arguments
        names = [name for _, (name, _) in typed]
        ranges = [range(self._objects[kind]) for _, (_, kind) in typed]
        cases = (
            bound | dict(zip(names, objects, strict=True)) for objects in itertools.product(*ranges)
        )
        if operator in ("forall", "exists"):
            every, parts = operator == "forall", []
            for case in cases:
                part = self.formula(inner, case)
                if part is (not every):
                    return not every
                parts.append(part)
            return joined(every, parts)
        terms = [self.affine(inner, case) for case in cases]
        if operator == "sum":
            return _arithmetic("+", terms)
        if operator == "avg":
            return _scaled(_arithmetic("+", terms), 1.0 / len(terms))
        numbers = [_number(term, operator) for term in terms]
        if operator == "prod":
            return math.prod(numbers)
        if operator in ("minimum", "maximum"):
            return min(numbers) if operator == "minimum" else max(numbers)
        raise NotLinearError(f"{operator} is not supported in a constraint")

    def _function(self, operator: str, arguments: Any, bound: dict[str, int]) -> float:
        numbers = [_number(self.affine(part, bound), operator) for part in arguments]
        functions: dict[str, Any] = {
            "abs": abs,
            "min": min,
            "max": max,
            "exp": math.exp,
            "sqrt": math.sqrt,
            "pow": math.pow,
            "floor": math.floor,
            "ceil": math.ceil,
            "mod": lambda x, y: x % y,
            "div": lambda x, y: x // y,
        }
        if operator not in functions:
            raise NotLinearError(f"the function {operator} is not supported in a constraint")
        return float(functions[operator](*numbers))


def rows_of(
    clauses: Sequence[Formula], actions: GroundActions, lower: FloatArray, upper: FloatArray
) -> list[tuple[dict[int, float], float]]:
    """Return rows ``coefficients . x <= right`` that hold for the clauses' actions alone.

    Parameters
    ----------
    clauses
        Formulas that all must hold.
    actions
        The ground actions.
    lower, upper
        Bounds of the actions, shape (n_actions,); for a comparison that holds only sometimes, they
        must be finite.

    Raises
    ------
    NotLinearError
        If a clause is not a linear constraint.
    """
    rows = []
    for clause in clauses:
        for atoms in _disjunctions(clause):
            comparisons = [atom for atom in atoms if isinstance(atom, AtMost)]
            literals = [atom for atom in atoms if isinstance(atom, Literal)]
            if len(comparisons) > 1:
                raise NotLinearError("one of several comparisons has to hold")
            if not comparisons:
                rows.append(_offset({}, -1.0, literals, 1.0))
                continue
            c, right = _unstrict(comparisons[0], actions)
            most = sum(v * (upper[i] if v > 0 else lower[i]) for i, v in c.items())
            if literals and not math.isfinite(most):
                raise NotLinearError("an action without bounds is limited only in some cases")
            rows.append(_offset(c, right, literals, max(most - right, 0.0) if literals else 0.0))
    return rows


def _offset(
    coefficients: Mapping[int, float], right: float, literals: Sequence[Literal], size: float
) -> tuple[dict[int, float], float]:
    """Return ``coefficients . x <= right + size * (number of literals that hold)``."""
    row = dict(coefficients)
    for literal in literals:
        sign = 1.0 if literal.value else -1.0
        row[literal.action] = row.get(literal.action, 0.0) - sign * size
        if not literal.value:
            right += size
    return row, right


def _unstrict(comparison: AtMost, actions: GroundActions) -> tuple[dict[int, float], float]:
    """Return a comparison without strictness, as tight as whole numbers allow."""
    c, right = dict(comparison.coefficients), comparison.right
    whole = all(actions.whole[i] and abs(v - round(v)) < _WHOLE for i, v in c.items())
    if whole:
        right = math.ceil(right - _WHOLE) - 1.0 if comparison.strict else math.floor(right + _WHOLE)
    elif comparison.strict:
        right -= _STRICT
    return c, float(right)


def _conjuncts(formula: Formula) -> list[Formula]:
    if isinstance(formula, Junction) and formula.every:
        return [clause for part in formula.parts for clause in _conjuncts(part)]
    return [] if formula is True else [formula]


def _disjunctions(formula: Formula) -> list[list[Formula]]:
    """Return a formula in conjunctive normal form, as lists of alternatives."""
    if isinstance(formula, bool):
        return [] if formula else [[]]
    if not isinstance(formula, Junction):
        return [[formula]]
    parts = [_disjunctions(part) for part in formula.parts]
    if formula.every:
        return [clause for part in parts for clause in part]
    if math.prod(len(part) for part in parts) > _MOST_CLAUSES:
        raise NotLinearError("it has too many alternatives")
    mixed = [list(itertools.chain(*choice)) for choice in itertools.product(*parts)]
    return [clause for clause in mixed if not _tautology(clause)]


def _tautology(atoms: Sequence[Formula]) -> bool:
    literals = {(atom.action, atom.value) for atom in atoms if isinstance(atom, Literal)}
    return any((i, not value) in literals for i, value in literals)


def joined(every: bool, parts: Sequence[Formula]) -> Formula:
    """Return the formula that all, or any, of the parts hold."""
    kept = [part for part in parts if part is not every]
    if any(part is (not every) for part in kept):
        return not every
    if len(kept) < 2:
        return kept[0] if kept else every
    return Junction(every, tuple(kept))


def _not(formula: Formula) -> Formula:
    if isinstance(formula, bool):
        return not formula
    if isinstance(formula, Literal):
        return Literal(formula.action, not formula.value)
    if isinstance(formula, AtMost):
        negated = {i: -value for i, value in formula.coefficients.items()}
        return AtMost(negated, -formula.right, not formula.strict)
    return Junction(not formula.every, tuple(_not(part) for part in formula.parts))


def _affine(value: Any) -> Affine:
    if isinstance(value, Affine):
        return value
    if isinstance(value, Literal):
        sign = 1.0 if value.value else -1.0
        return Affine({value.action: sign}, 0.0 if value.value else 1.0)
    if isinstance(value, Chosen):
        return Affine({i: float(k) for k, i in enumerate(value.variables) if k}, 0.0)
    if isinstance(value, AtMost | Junction):
        raise NotLinearError("it counts a condition on several actions")
    return Affine({}, float(value))


def _number(term: Affine, operator: str) -> float:
    if term.coefficients:
        raise NotLinearError(f"{operator} of an action is not linear")
    return term.constant


def _scaled(term: Affine, factor: float) -> Affine:
    return Affine({i: factor * v for i, v in term.coefficients.items()}, factor * term.constant)


def _arithmetic(operator: str, terms: Sequence[Affine]) -> Affine:
    if operator == "-" and len(terms) == 1:
        return _scaled(terms[0], -1.0)
    if operator in ("+", "-"):
        total, constant = dict[int, float](), 0.0
        for k, term in enumerate(terms):
            sign = -1.0 if operator == "-" and k else 1.0
            constant += sign * term.constant
            for i, value in term.coefficients.items():
                total[i] = total.get(i, 0.0) + sign * value
        return Affine({i: value for i, value in total.items() if value}, constant)
    if operator == "/":
        return _scaled(terms[0], 1.0 / _number(terms[1], "division by"))
    product = Affine({}, 1.0)
    for term in terms:
        if product.coefficients:
            product = _scaled(product, _number(term, "a product"))
        else:
            product = _scaled(term, product.constant)
    return product


def _compared(operator: str, left: Affine, right: Affine, actions: GroundActions) -> Formula:
    difference = _arithmetic("-", [left, right])
    less = _at_most(difference, operator == "<", actions)
    more = _at_most(_scaled(difference, -1.0), operator == ">", actions)
    if operator in ("<", "<="):
        return less
    if operator in (">", ">="):
        return more
    equal = joined(True, [less, more])
    return equal if operator == "==" else _not(equal)


def _same(left: Any, right: Any) -> Formula:
    """Return that an action has an object, or another action's object, for its value."""
    if not isinstance(left, Chosen):
        left, right = right, left
    own = left.variables
    if not isinstance(right, Chosen):
        k = int(_number(_affine(right), "a comparison"))
        return Literal(own[k], True) if 0 <= k < len(own) else False
    pairs = zip(own, right.variables, strict=True)
    both = [joined(True, [Literal(i, True), Literal(j, True)]) for i, j in pairs]
    return joined(False, both)


def _at_most(term: Affine, strict: bool, actions: GroundActions) -> Formula:
    """Return that a term is at most, or below, zero; as simple as it is for one binary action."""

    def holds(value: float) -> bool:
        return value < 0.0 if strict else value <= 0.0

    if not term.coefficients:
        return holds(term.constant)
    if len(term.coefficients) == 1:
        ((action, value),) = term.coefficients.items()
        if actions.binary[action]:
            at_zero, at_one = holds(term.constant), holds(term.constant + value)
            return at_zero if at_zero == at_one else Literal(action, at_one)
    return AtMost(term.coefficients, -term.constant, strict)
