"""Why this action and not another one: each variable forced, each limit one unit larger.

For every binary variable, the best value with it at one and with it at zero. The best action has
one of the two; the other one takes a solve with the variable held there. For every limit of the
blocks, a budget, a capacity, a slot, the best value with one unit more of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.extras import needs
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.result import ArgmaxResult, relative_gap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from milp_rl.argmax_solver import ArgmaxSolver

_AT_ONCE = 256  # solves whose masks are made together
_MOST_DRAWN = 30  # bars in a chart
_CHOSEN, _OTHERS = "#4c78a8", "#bab0ac"


@dataclass(frozen=True, eq=False)
class WhatIf:
    """The best values with each variable forced, and with one unit more of each limit.

    Each is a result of its own: ``"optimal"`` where its value is exact, ``"feasible"`` where a
    limit left it between ``value`` and ``bound``, ``"infeasible"`` where no feasible action is so.

    Parameters
    ----------
    result
        The best action.
    variables
        The binary variables that were free, in order.
    forced_in, forced_out
        The best action with each of these at one, and at zero.
    limits
        The best action with one unit more of each limit, by what the limit is.
    sense
        What is best.

    Examples
    --------
    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[4.0, 1.0, 2.0]]], [[0.0]])
    >>> space = mr.BudgetTopK(3, 2, costs=[2, 1, 1], budget=2)
    >>> answers = mr.ArgmaxSolver(network, space).what_if(None)
    >>> answers.result.chosen, answers.exact
    ([0], True)
    >>> table = answers.variable_table()
    >>> table[["chosen", "value_in", "value_out", "loss"]]  # doctest: +NORMALIZE_WHITESPACE
              chosen  value_in  value_out  loss
    variable
    0           True       4.0        3.0   1.0
    1          False       3.0        4.0   1.0
    2          False       3.0        4.0   1.0
    >>> answers.limit_table()[["value", "price"]]  # doctest: +NORMALIZE_WHITESPACE
            value  price
    limit
    k         4.0    0.0
    budget    6.0    2.0
    """

    result: ArgmaxResult
    variables: tuple[int, ...]
    forced_in: tuple[ArgmaxResult, ...]
    forced_out: tuple[ArgmaxResult, ...]
    limits: Mapping[str, ArgmaxResult]
    sense: Literal["maximize", "minimize"] = "maximize"

    @property
    def exact(self) -> bool:
        """Whether all values are exact; limits, or a gap that was asked for, leave bounds."""
        results = (self.result, *self.forced_in, *self.forced_out, *self.limits.values())
        return all(_exact(result) for result in results)

    def variable_table(self) -> pd.DataFrame:
        """Return a row per variable.

        ``chosen``: whether the best action has it; ``value_in``, ``bound_in`` and ``status_in``:
        with it forced in; ``value_out``, ``bound_out`` and ``status_out``: with it forced out;
        ``loss``: by how much the best value is worse with it on the other side, at most
        (``loss_bound``: at least). NaN where nothing is feasible. Where the best action itself is
        not proven, ``loss`` is an estimate.
        """
        with needs("reports"):
            import pandas as pd

        action = self.result.action
        rows = []
        for i, own, out in zip(self.variables, self.forced_in, self.forced_out, strict=True):
            chosen = action is not None and bool(action[i])
            other = out if chosen else own
            rows.append(
                {
                    "variable": i,
                    "chosen": chosen,
                    "value_in": own.value,
                    "bound_in": _bound(own),
                    "status_in": own.status,
                    "value_out": out.value,
                    "bound_out": _bound(out),
                    "status_out": out.status,
                    "loss": -self._gain(other.value),
                    "loss_bound": max(-self._gain(_bound(other)), 0.0),
                }
            )
        return pd.DataFrame(rows, columns=_VARIABLE_COLUMNS).set_index("variable")

    def limit_table(self) -> pd.DataFrame:
        """Return a row per limit.

        ``value``, ``bound`` and ``status``: with one unit more of it; ``price``: what the unit is
        worth, at least (``price_bound``: at most). Where the best action itself is not proven,
        ``price`` is an estimate.
        """
        with needs("reports"):
            import pandas as pd

        rows = [
            {
                "limit": name,
                "value": more.value,
                "bound": _bound(more),
                "status": more.status,
                "price": self._gain(more.value),
                "price_bound": self._gain(_bound(more)),
            }
            for name, more in self.limits.items()
        ]
        return pd.DataFrame(rows, columns=_LIMIT_COLUMNS).set_index("limit")

    def __str__(self) -> str:
        """Write both tables."""
        tables = [self.variable_table()] if self.variables else []
        tables += [self.limit_table()] if self.limits else []
        return "\n\n".join([str(self.result), *(table.to_string() for table in tables)])

    def plot(self) -> Figure:
        """Draw what each variable on the other side loses, and the price of each limit.

        Returns
        -------
        matplotlib.figure.Figure
            The 30 variables of the smallest losses: those that the decision hangs on least. To be
            saved with ``savefig``; pyplot and its global state are not touched.
        """
        with needs("reports"):
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.patches import Patch

        losses = self.variable_table().dropna(subset="loss")
        losses = losses.sort_values("loss", kind="stable").head(_MOST_DRAWN)
        prices = self.limit_table().dropna(subset="price").head(_MOST_DRAWN)
        panels = [len(table) for table in (losses, prices)]
        height = 1.2 + 0.24 * max(*panels, 3)
        figure = Figure(figsize=(9.0 if all(panels) else 5.0, height), layout="constrained")
        FigureCanvasAgg(figure)
        drawn = [table for table in (losses, prices) if len(table)]
        for axes, table in zip(
            figure.subplots(1, max(len(drawn), 1), squeeze=False)[0], drawn, strict=False
        ):
            names = [str(name) for name in table.index]
            if table is losses:
                colors = [_CHOSEN if chosen else _OTHERS for chosen in table["chosen"]]
                axes.barh(names, table["loss"], color=colors)
                axes.set_xlabel("loss of value on the other side")
                axes.set_ylabel("variable")
                handles = [
                    Patch(color=_CHOSEN, label="chosen"),
                    Patch(color=_OTHERS, label="not chosen"),
                ]
                axes.legend(handles=handles, frameon=False)
            else:
                axes.barh(names, table["price"], color=_CHOSEN)
                axes.set_xlabel("value of one unit more")
            if not any(bar.get_width() < 0 for bar in axes.containers[0]):
                axes.set_xlim(left=0.0)
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
        return figure

    def _gain(self, value: float) -> float:
        """Return by how much a value is better than the best action's."""
        return (value - self.result.value) * (1.0 if self.sense == "maximize" else -1.0)


_VARIABLE_COLUMNS = [
    "variable",
    "chosen",
    "value_in",
    "bound_in",
    "status_in",
    "value_out",
    "bound_out",
    "status_out",
    "loss",
    "loss_bound",
]
_LIMIT_COLUMNS = ["limit", "value", "bound", "status", "price", "price_bound"]


def what_if(
    solver: ArgmaxSolver,
    state: ArrayLike | None,
    *,
    available: ArrayLike | None = None,
    required: ArrayLike | None = None,
    space: ActionSpace | None = None,
    time_limit: float | None = None,
) -> WhatIf:
    """Solve with each variable forced and with each limit larger.

    Parameters are those of :meth:`.ArgmaxSolver.what_if`. Of the time, the best action has half at
    most; what is left is shared equally between the solves that are left.
    """
    deadline = math.inf if time_limit is None else perf_counter() + time_limit
    half = None if time_limit is None else time_limit / 2
    own = solver.space if space is None else space
    best = solver.solve(state, available=available, required=required, space=space, time_limit=half)
    if best.action is None:
        raise ValueError(f"there is no best action to compare with: {best.status}, {best.message}")
    may, must = (
        np.full(own.n_actions, default) if mask is None else np.asarray(mask, dtype=bool)
        for mask, default in ((available, True), (required, False))
    )
    variables = np.flatnonzero(~(own.continuous | own.integer) & may & ~must)
    limits = own.limits()
    others: list[ArgmaxResult] = []
    at_once = _AT_ONCE if time_limit is None else 1
    for i in range(0, len(variables), at_once):
        forced = variables[i : i + at_once]
        seconds = _share(deadline, len(variables) - i + len(limits))
        if seconds == 0.0:
            others += [_unknown(best, best.bound)] * len(forced)
            continue
        here = np.arange(len(forced))
        allowed, needed = np.tile(may, (len(forced), 1)), np.tile(must, (len(forced), 1))
        allowed[here, forced] = best.action[forced] == 0
        needed[here, forced] = best.action[forced] == 0
        found = solver.solve_batch(
            np.tile(np.asarray([] if state is None else state, float), (len(forced), 1)),
            available=allowed,
            required=needed,
            space=space,
            time_limit=seconds,
        )
        others += [_within(result, best, solver.sense) for result in found]
    prices: dict[str, ArgmaxResult] = {}
    for name, more in limits.items():
        seconds = _share(deadline, len(limits) - len(prices))
        if seconds == 0.0:
            prices[name] = _unknown(best, math.inf if solver.sense == "maximize" else -math.inf)
            continue
        prices[name] = solver.solve(
            state,
            start=None if more.violations(best.action) else best.action,
            available=available,
            required=required,
            space=more,
            time_limit=seconds,
        )
    sides: list[tuple[ArgmaxResult, ...]] = []
    top = _best_found(best, others, solver.sense)
    for i, other in zip(variables.tolist(), others, strict=True):
        pair = (other, best) if best.action[i] else (best, other)
        sides.append(tuple(_known(own, top, i, side) for side, own in enumerate(pair)))
    return WhatIf(
        _known(best, top),
        tuple(variables.tolist()),
        tuple(own for _, own in sides),
        tuple(out for out, _ in sides),
        prices,
        solver.sense,
    )


def _best_found(best: ArgmaxResult, others: list[ArgmaxResult], sense: str) -> ArgmaxResult:
    """Return the best action that was met, where the first solve left it open which that is."""
    if _exact(best):
        return best
    found = [best, *(other for other in others if other.action is not None)]
    return max(found, key=lambda result: result.value if sense == "maximize" else -result.value)


def _known(
    result: ArgmaxResult, top: ArgmaxResult, variable: int | None = None, side: int = 0
) -> ArgmaxResult:
    """Let a result have the best action that was met, if that is on its side of a variable."""
    action = top.action
    if _exact(result) or action is None or (variable is not None and action[variable] != side):
        return result
    return replace(
        result,
        action=action,
        value=top.value,
        gap=relative_gap(top.value, result.bound),
        status="feasible" if result.action is None else result.status,
    )


def _exact(result: ArgmaxResult) -> bool:
    """Whether a value is proven, within what counts as no difference."""
    none = result.status == "infeasible"
    return none or abs(result.bound - result.value) <= result.tolerance


def _share(deadline: float, solves: int) -> float | None:
    """Return the seconds for each of the solves that are left, ``None`` without a deadline."""
    if math.isinf(deadline):
        return None
    return max(deadline - perf_counter(), 0.0) / solves


def _unknown(best: ArgmaxResult, bound: float) -> ArgmaxResult:
    """Return that the time ended before a solve."""
    message = "the time ended before"
    return replace(
        best,
        action=None,
        value=math.nan,
        bound=bound,
        gap=math.inf,
        status="no_solution",
        seconds=0.0,
        nodes=0,
        message=message,
    )


def _within(result: ArgmaxResult, best: ArgmaxResult, sense: str) -> ArgmaxResult:
    """Bound what a part of the set has by what is known of all of it."""
    if _exact(result):
        return result
    bound = min(result.bound, best.bound) if sense == "maximize" else max(result.bound, best.bound)
    gap = result.gap if result.action is None else relative_gap(result.value, bound)
    return replace(result, bound=bound, gap=gap)


def _bound(result: ArgmaxResult) -> float:
    return math.nan if result.status == "infeasible" else result.bound
