"""What no solver may see of a user's Pyomo model: numbers that are not finite, domains with gaps.

Solvers differ in what they make of such input: one drops the row, one calls the model an error,
one calls a wrong point optimal. Here it is an error that names the component.
"""

from __future__ import annotations

import math
from typing import Any

import pyomo.environ as pyo
from pyomo.core.base.range import AnyRange
from pyomo.core.expr.visitor import identify_variables
from pyomo.repn import generate_standard_repn

_ADVICE = "every number must be finite (leave a side or a bound out where there is none)"


def check_domain(variable: Any) -> None:
    """Refuse a Pyomo variable whose domain a linear model cannot hold.

    Raises
    ------
    ValueError
        If the domain is neither an interval nor all whole numbers of one: compilers and writers
        would widen {0, 3, 7} to [0, 7].
    """
    if variable.is_continuous() or variable.is_integer():
        return
    domain = variable.domain
    ranges = list(domain.ranges())
    if any(isinstance(part, AnyRange) for part in ranges):  # nothing is left out of Any
        return
    if not ranges:
        raise ValueError(f"variable {variable.name} has an empty domain")
    shown = "{" + ", ".join(map(str, ranges)) + "}" if len(ranges) > 1 else str(ranges[0])
    raise ValueError(
        f"variable {variable.name} has the domain {shown}, which has gaps: a linear model holds"
        " intervals and ranges of whole numbers, and would widen it; choose among its values with"
        " binary variables, such as x == sum(value[i] * choice[i]) and sum(choice) == 1"
    )


def check_numbers(block: Any) -> None:
    """Find the number that is not finite in a Pyomo block.

    It looks at one component after another, so it is for blocks that are known to hold one.

    Raises
    ------
    ValueError
        Naming the component of the first, what it is and its value.
    """
    for kind, word in ((pyo.Constraint, "constraint"), (pyo.Objective, "objective")):
        for component in block.component_data_objects(kind, active=True, sort=True):
            if fault := _fault(component):
                raise ValueError(f"{word} {component.name}: {fault}; {_ADVICE}")


def _fault(component: Any) -> str | None:
    """Say what is not finite in one constraint or objective."""
    if component.ctype is pyo.Constraint:
        lower, body, upper = component.to_bounded_expression()
        for side, name, none in ((lower, "lower", -math.inf), (upper, "upper", math.inf)):
            number = none if side is None else pyo.value(side)
            if not math.isfinite(number) and number != none:
                return f"its {name} side is {number}"
    else:
        body = component.expr
    for variable in identify_variables(body, include_fixed=True):
        if variable.fixed and (variable.value is None or not math.isfinite(variable.value)):
            return f"the fixed variable {variable.name} has the value {variable.value}"
    terms = generate_standard_repn(body, compute_values=True)
    for variable, coefficient in zip(terms.linear_vars, terms.linear_coefs, strict=True):
        if not math.isfinite(coefficient):
            return f"the coefficient of {variable.name} is {coefficient}"
    if not math.isfinite(terms.constant):
        return f"its constant is {terms.constant}"
    return None
