"""Programs over the few choices in question, everyone else keeping a base action.

Nearly optimal prices leave most patients one sensible action. The linear program over the choices
whose reduced values nearly tie gives exact prices and at most one fractional patient per limit; a
mixed-integer program over these, and some hundred more, makes an allocation of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.milp.highs import pass_model, run, silent_highs
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.offline.allocation_problem import AllocationProblem
from milp_rl.offline.prices import SharedPrices

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices in question, in order of patients: number of patient and action of each."""

    patients: IntArray
    actions: IntArray

    @classmethod
    def of(cls, codes: IntArray, n_actions: int) -> Choices:
        """Return the choices numbered patient times ``n_actions`` plus action."""
        patients, actions = np.divmod(np.unique(codes), n_actions)
        return cls(patients, actions)

    def codes(self, n_actions: int) -> IntArray:
        """Return ``patient * n_actions + action``."""
        return np.asarray(self.patients * n_actions + self.actions)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Optimum of a linear program over choices: their shares, prices, value, and what is broken."""

    shares: FloatArray
    prices: FloatArray
    value: float
    broken: FloatArray


def rounded(p: AllocationProblem, at: SharedPrices) -> IntArray:
    """Return actions drawn from the probabilities at the temperature, evenly over patients.

    Patient i draws with the fractional part of i times the golden ratio, so that among patients of
    equal values each action is taken as often as its probability says, up to a few.
    """
    tariff = p.tariff(at.prices)
    actions = np.empty(len(p.q), dtype=np.intp)
    for patients in p.chunks():
        chance = p.reduced(patients, tariff)
        if at.temperature <= 0:
            actions[patients] = chance.argmax(axis=1)
            continue
        chance -= chance.max(axis=1, keepdims=True)
        np.exp(chance / at.temperature, out=chance)
        chance[chance < 1e-4] = 0.0
        total = np.cumsum(chance, axis=1)
        draw = np.arange(patients.start, patients.stop) * _GOLDEN % 1.0 * total[:, -1]
        actions[patients] = (total <= draw[:, None]).sum(axis=1)
    return actions


def nearest_choices(p: AllocationProblem, prices: FloatArray, base: IntArray, most: int) -> Choices:
    """Return about the ``most`` choices that lose least at prices, with their patients' base."""
    n = len(p.q)
    if most >= p.q.size:
        return within(p, prices, base, np.inf)
    tariff = p.tariff(prices)
    some = np.arange(0, n, max(1, n // 50_000))
    reduced = p.reduced(some, tariff)
    loss = np.sort(reduced.max(axis=1, keepdims=True) - reduced, axis=1)[:, 1:].ravel()
    rank = min(len(loss) - 1, int(most * len(some) / n))
    return within(p, prices, base, float(np.partition(loss, rank)[rank]), most=2 * most)


def within(
    p: AllocationProblem,
    prices: FloatArray,
    base: IntArray,
    loss: float,
    *,
    most: int | None = None,
) -> Choices:
    """Return choices that lose at most ``loss`` at prices, of patients with more than one.

    With ``most``, patients are left out evenly where there are more: many may tie.
    """
    n_actions = p.q.shape[1]
    tariff = p.tariff(prices)
    found, first = [], []
    for patients in p.chunks():
        reduced = p.reduced(patients, tariff)
        near: BoolArray = reduced >= reduced.max(axis=1, keepdims=True) - loss
        near &= np.isfinite(p.q[patients])
        rows = np.arange(len(reduced))
        near[rows, base[patients]] = True
        open_rows = np.flatnonzero(near.sum(axis=1) > 1)
        i, a = np.nonzero(near[open_rows])
        found.append((patients.start + open_rows[i]) * n_actions + a)
        first.append(patients.start + open_rows)
    codes = np.concatenate(found)
    if most is not None and len(codes) > most:
        everyone = np.concatenate(first)
        kept = everyone[:: -(-len(codes) // most)]
        codes = codes[np.isin(codes // n_actions, kept)]
    return Choices.of(codes, n_actions)


def relax(p: AllocationProblem, base: IntArray, choices: Choices, penalty: float) -> Relaxed:
    """Solve the linear program over choices; a limit may be broken at a price per its scale."""
    model, fixed = _model(p, base, choices, integer=False, penalty=penalty)
    highs = silent_highs()
    for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
        highs.setOptionValue(name, 1e-9)
    pass_model(highs, model)
    status = run(highs)
    if status != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS ends with {status} on a linear program; please report this")
    solution = highs.getSolution()
    x, duals = np.array(solution.col_value), np.array(solution.row_dual)
    rows, n = len(p.most), len(choices.patients)
    return Relaxed(
        x[:n],
        np.maximum(duals[len(duals) - rows :], 0.0) * p.unit / p.scale,
        float(p.q[choices.patients, choices.actions] @ x[:n]) + fixed,
        np.where(x[n:] > 1e-7, x[n:] * p.scale, 0.0),
    )


def settle(
    p: AllocationProblem,
    base: IntArray,
    choices: Choices,
    *,
    gap: float,
    nodes: int | None = None,
    time_limit: float = np.inf,
) -> tuple[IntArray | None, float, bool]:
    """Solve the mixed-integer program over choices.

    Parameters
    ----------
    p, base, choices
        Patients without choices keep their base action.
    gap
        Largest difference to the bound, in units of q.
    nodes, time_limit
        Limits of the search.

    Returns
    -------
    tuple
        The allocation, if any; the solver's bound on its value; whether the search ended.
    """
    model, fixed = _model(p, base, choices, integer=True)
    highs = silent_highs()
    for name in ("primal_feasibility_tolerance", "mip_feasibility_tolerance"):
        highs.setOptionValue(name, 1e-9)
    highs.setOptionValue("mip_rel_gap", 0.0)
    highs.setOptionValue("mip_abs_gap", max(gap / p.unit, 1e-9))
    if nodes is not None:
        highs.setOptionValue("mip_max_nodes", nodes)
    if time_limit < np.inf:
        highs.setOptionValue("time_limit", float(time_limit))
    pass_model(highs, model)
    status = run(highs)
    ended = status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible)
    x = np.array(highs.getSolution().col_value)
    if len(x) != len(choices.patients) or highs.getInfo().primal_solution_status != 2:
        return None, -np.inf if ended else np.inf, ended
    actions = base.copy()
    taken = x > 0.5
    actions[choices.patients[taken]] = choices.actions[taken]
    if taken.sum() != len(np.unique(choices.patients)):
        raise RuntimeError("the solver's allocation is not one action per patient")
    if p.excess(actions).any():
        raise RuntimeError("the solver's allocation breaks a limit; please report this")
    return actions, float(highs.getInfo().mip_dual_bound) * p.unit + fixed, ended


def _model(
    p: AllocationProblem,
    base: IntArray,
    choices: Choices,
    *,
    integer: bool,
    penalty: float = 0.0,
) -> tuple[LinearModel, float]:
    """Return the program over choices in units of values and limits, and the value of the rest."""
    free, row = np.unique(choices.patients, return_inverse=True)
    n, rows, columns = len(free), len(p.most), len(choices.patients)
    one = sparse.csr_array((np.ones(columns), (row, np.arange(columns))), shape=(n, columns))
    counted = p.used_by(choices.patients, choices.actions)
    left = p.most - p.used(base) + p.used_by(free, base[free]).sum(axis=1)
    left += 1e-10 * (1 + np.abs(p.most))  # what sums over everyone lose by rounding
    shared = sparse.csr_array(counted / p.scale[:, None])
    matrix: Any = sparse.vstack([one, shared])
    if penalty:
        unit = sparse.vstack([sparse.csr_array((n, rows)), -sparse.eye_array(rows)])
        matrix = sparse.hstack([matrix, unit])
    extra = rows if penalty else 0
    fixed = p.value(base) - float(p.q[free, base[free]].sum())
    model = LinearModel(
        np.append(p.q[choices.patients, choices.actions] / p.unit, np.full(extra, -penalty)),
        0.0,
        sparse.csr_array(matrix),
        np.append(np.ones(n), np.full(rows, -np.inf)),
        np.append(np.ones(n), left / p.scale),
        np.zeros(columns + extra),
        np.append(np.ones(columns), np.full(extra, np.inf)),
        np.append(np.full(columns, integer), np.zeros(extra, dtype=bool)),
    )
    return model, fixed
