"""RDDL domains, such as those of the planning competitions (IPPC), as environments.

Sanner, "Relational dynamic influence diagram language (RDDL): language description", 2010; the
simulator is pyRDDLGym (Taitler et al., "pyRDDLGym: from RDDL to Gym environments", 2022).
"""

from __future__ import annotations

import contextlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.arms import Arms
from milp_rl.envs.known_model import StateArray
from milp_rl.envs.rddl_actions import ground_actions
from milp_rl.envs.rddl_blocks import grouped
from milp_rl.envs.rddl_layout import StateLayout
from milp_rl.envs.rddl_preconditions import (
    Formula,
    NotLinearError,
    Preconditions,
    rows_of,
)
from milp_rl.envs.spaces import FeasibleActions, FeasibleBox
from milp_rl.extras import needs
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box

_REMEMBERED = 10_000  # feasible sets
_WHOLE = 1e-9  # by which a bound may miss a whole number
_Row = tuple[dict[int, float], float]


class RDDLEnv(gym.Env[StateArray, Any]):
    """An RDDL domain with a vector of its state, and its preconditions as the feasible set.

    Made by :func:`from_rddl`.

    Action Space
    ------------
    A vector with one variable per ground action fluent, or one for each object that may be its
    value, as :attr:`action_names` has them: a
    :class:`~milp_rl.envs.FeasibleActions` of int8 if all are boolean, otherwise a ``FeasibleBox``,
    int64 if none is real, else float64. Both contain what is feasible in the present state;
    :meth:`step` raises ``ValueError`` for anything else.

    Observation Space
    -----------------
    ``Box``, float32: the state fluents, by arm as :attr:`arm_layout` says, and as
    :attr:`feature_names` names them. A fluent whose value is an object is one number per object.
    Fluents that belong to several arms are there several times.

    Rewards
    -------
    The domain's.

    Starting State
    --------------
    The instance's.

    Episode End
    -----------
    Terminated where the domain says so; truncated at the horizon, or where a state invariant of
    the domain does not hold.

    Arguments
    ---------
    ```python
    from_rddl("SysAdmin_MDP_ippc2011", "4", max_actions=4)
    ```

    Parameters
    ----------
    model
        A ``pyRDDLGym.core.compiler.model.RDDLLiftedModel``.
    max_actions, horizon, action_bounds
        As for :func:`from_rddl`.

    Attributes
    ----------
    arm_layout
        How observations and actions belong to arms.
    feature_names, action_names
        What each number of an observation, and of an action, is.
    discount, horizon
        The instance's, or as given.
    model, simulator
        pyRDDLGym's.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(
        self,
        model: Any,
        *,
        max_actions: int | None = None,
        horizon: int | None = None,
        action_bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        from pyRDDLGym.core.simulator import RDDLSimulator

        if model.observ_fluents:
            raise ValueError(
                f"{model.domain_name} is partially observed (it has observation fluents"
                f" {', '.join(model.observ_fluents)}): take the domain's MDP variant"
            )
        self.model = model
        self.simulator: Any = RDDLSimulator(model, keep_tensors=True, objects_as_strings=False)
        self.horizon = int(model.horizon if horizon is None else horizon)
        self.discount = float(model.discount)
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {self.horizon}")
        values = self.simulator.init_values
        self._actions = ground_actions(model)
        self._layout = StateLayout(model, values, self._actions)
        self.arm_layout: Arms = self._layout.arms
        self.action_names = self._actions.names
        self.feature_names = self._layout.feature_names
        self._count = self._counted(values, max_actions)
        self._preconditions = Preconditions(
            model,
            _constraints(model),
            {name: values[name] for name in model.non_fluents},
            self._actions,
        )
        self._lower, self._upper, self._rows = self._fixed(dict(action_bounds or {}))
        self._blocks: dict[bytes, ActionSpace] = {}
        self._constant = None if self._preconditions.fluents else self._built({})
        self.observation_space = gym.spaces.Box(self._layout.low, self._layout.high)
        whole = self._box(self._lower, self._upper, [])
        self.action_space: FeasibleActions | FeasibleBox = (
            FeasibleActions(whole) if self._actions.binary.all() else FeasibleBox(whole)
        )
        self._steps = -1
        self._state: StateArray = np.zeros(len(self._layout.low), dtype=np.float32)
        self.simulator.reset()
        self._observe()

    def action_space_block(self, state: ArrayLike) -> ActionSpace:
        """Return what is feasible in a state, given as an observation.

        At most ``max_actions`` ground actions differ from their defaults, and the preconditions
        hold.

        Raises
        ------
        ValueError
            If a precondition is not linear in the actions in this state, or nothing is feasible.
        """
        if self._constant is not None:
            return self._constant
        fluents = self._layout.state(np.asarray(state))
        seen = {name: fluents[name] for name in self._preconditions.fluents}
        key = b"".join(value.tobytes() for value in seen.values())
        found = self._blocks.get(key)
        if found is None:
            found = self._blocks[key] = self._built(seen)
            if len(self._blocks) > _REMEMBERED:
                del self._blocks[next(iter(self._blocks))]
        return found

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode; the same seed gives what pyRDDLGym's own environment gives."""
        super().reset(seed=seed)
        self.simulator.rng = self.np_random
        self.simulator.reset()
        self._steps = 0
        self._observe()
        return self._state.copy(), {}

    def step(self, action: ActionArray) -> tuple[StateArray, float, bool, bool, dict[str, Any]]:
        """Play an action, shape (n_actions,).

        Raises
        ------
        ValueError
            If it is not feasible, with the violated constraints.
        gymnasium.error.ResetNeeded
            If :meth:`reset` was never called.
        """
        if self._steps < 0:
            raise gym.error.ResetNeeded("call reset() first")
        block = self.action_space.block
        if violations := block.violations(action):
            raise ValueError(f"infeasible action: {'; '.join(violations)}")
        checked = block.check_action(action)
        _, reward, terminated = self.simulator.step(self._played(checked))
        self._steps += 1
        if terminated:
            self._state = self._layout.vector(self.simulator.states)
        else:
            self._observe()
        broken = not self.simulator.check_state_invariants(silent=True)
        truncated = broken or self._steps >= self.horizon
        return self._state.copy(), float(reward), bool(terminated), truncated, {}

    def _observe(self) -> None:
        """Take over the simulator's state, and what is feasible in it."""
        self._state = self._layout.vector(self.simulator.states)
        self.action_space.block = self.action_space_block(self._state)

    def _played(self, action: ActionArray) -> dict[str, Any]:
        """Return an action vector as the arrays of pyRDDLGym's simulator."""
        found = {}
        for name in self._actions.variables:
            default = np.asarray(self.simulator.noop_actions[name])
            found[name] = self._actions.values(name, action).astype(default.dtype)
        return found

    def _counted(self, values: Mapping[str, Any], most: int | None) -> _Row | None:
        """Return the row of the largest number of actions that differ from their defaults."""
        n = sum(len(own) for own in self._actions.variables.values())
        allowed = int(self.model.max_allowed_actions) if most is None else int(most)
        if allowed < 0:
            raise ValueError(f"max_actions must be at least 0, got {allowed}")
        if allowed >= n:
            return None
        if not self._actions.binary.all():
            name = self.action_names[int(np.argmin(self._actions.binary))]
            raise ValueError(
                f"at most {allowed} of {n} actions may differ from their defaults, and {name} is"
                " not boolean: such a limit is not supported; lift it with max_actions"
            )
        row, right = dict[int, float](), float(allowed)
        for name, own in self._actions.variables.items():
            for variables, default in zip(own.tolist(), np.ravel(values[name]), strict=True):
                if name in self._actions.of_objects or default:
                    row[variables[int(default) if len(variables) > 1 else 0]] = -1.0
                    right -= 1.0
                else:
                    row[variables[0]] = 1.0
        return row, right

    def _fixed(
        self, given: dict[str, tuple[float, float]]
    ) -> tuple[FloatArray, FloatArray, list[_Row]]:
        """Return the bounds and rows that hold in every state."""
        binary = self._actions.binary
        lower, upper = np.where(binary, 0.0, -np.inf), np.where(binary, 1.0, np.inf)
        unknown = set(given) - set(self._actions.variables)
        if unknown:
            raise ValueError(f"action_bounds names {sorted(unknown)}, which are no action fluents")
        for name, (low, high) in given.items():
            own = self._actions.variables[name].ravel()
            lower[own], upper[own] = np.maximum(lower[own], low), np.minimum(upper[own], high)
        clauses = self._preconditions.always()
        single = [(name, [c for c in own if _is_bound(c)]) for name, own in clauses]
        lower, upper, _ = self._tightened(single, lower, upper)
        lower, upper, rows = self._tightened(clauses, lower, upper)
        open_ended = ~(np.isfinite(lower) & np.isfinite(upper))
        if open_ended.any():
            i = int(np.argmax(open_ended))
            raise ValueError(
                f"the action {self.action_names[i]} has no bounds, its preconditions say"
                f" [{lower[i]:g}, {upper[i]:g}]: give some, such as"
                f" action_bounds={{{self._actions.fluent_of(i)!r}: (0, 10)}}"
            )
        for variables in self._actions.choices:
            rows.append((dict.fromkeys(variables, 1.0), 1.0))
            rows.append((dict.fromkeys(variables, -1.0), -1.0))
        return lower, upper, rows

    def _tightened(
        self, clauses: list[tuple[str, list[Formula]]], lower: FloatArray, upper: FloatArray
    ) -> tuple[FloatArray, FloatArray, list[_Row]]:
        """Return bounds and rows of clauses, within bounds."""
        lower, upper, rows = lower.copy(), upper.copy(), []
        for name, own in clauses:
            try:
                found = rows_of(own, self._actions, lower, upper)
            except NotLinearError as error:
                raise NotLinearError(f"{name}: {error}") from None
            for row, right in found:
                kept = {i: value for i, value in row.items() if value}
                if not kept and right < 0:
                    raise ValueError(f"no feasible action: {name} does not hold in this state")
                if len(kept) == 1:
                    ((i, value),) = kept.items()
                    if value > 0:
                        upper[i] = min(upper[i], right / value + 0.0)
                    else:
                        lower[i] = max(lower[i], right / value + 0.0)
                elif kept and (kept, right) not in rows:
                    rows.append((kept, right))
        return lower, upper, rows

    def _built(self, state: Mapping[str, Any]) -> ActionSpace:
        """Return the feasible set where the fluents that preconditions see are these."""
        lower, upper, rows = self._tightened(
            self._preconditions.at(state), self._lower, self._upper
        )
        rows = self._rows + rows
        if self._count is not None:
            rows = [*rows, self._count]
        found = None
        if self._actions.binary.all() and not (lower > 0).any():
            found = grouped(upper > 0, rows)
        return self._box(lower, upper, rows) if found is None else found

    def _box(self, lower: FloatArray, upper: FloatArray, rows: Sequence[_Row]) -> Box:
        """Return the actions within bounds and rows, but for rows that the bounds imply."""
        binary, whole = self._actions.binary, self._actions.whole
        matrix = np.zeros((len(rows), len(lower)))
        for k, (row, _) in enumerate(rows):
            matrix[k, list(row)] = list(row.values())
        right = np.array([side for _, side in rows])
        low = np.where(whole, np.ceil(lower - _WHOLE), lower)
        high = np.where(whole, np.floor(upper + _WHOLE), upper)
        needed = np.where(matrix > 0, matrix * high, matrix * low).sum(axis=1) > right
        return Box(
            low,
            high,
            matrix=matrix[needed],
            right=right[needed],
            binary=np.flatnonzero(binary).tolist(),
            integer=np.flatnonzero(whole & ~binary).tolist(),
        )


def from_rddl(
    domain: str | Path,
    instance: str | Path,
    *,
    max_actions: int | None = None,
    horizon: int | None = None,
    action_bounds: Mapping[str, tuple[float, float]] | None = None,
) -> RDDLEnv:
    """Return an RDDL domain as an environment whose preconditions are a feasible set.

    Boolean, integer and real actions become binary, integer and continuous variables, one whose
    values are objects a binary variable for each of them;
    ``max-nondef-actions`` a budget of them; action-preconditions and the older
    state-action-constraints linear constraints and, where they depend on the state, a feasible set
    for each state. States and actions are laid out by arm, as
    :attr:`RDDLEnv.arm_layout` says. Nothing of a domain
    is left out: what cannot be had is refused.

    Parameters
    ----------
    domain
        Name of a problem in rddlrepository, such as ``"SysAdmin_MDP_ippc2011"``, or the path of a
        domain file.
    instance
        Name of an instance there, such as ``"4"``, or the path of an instance file.
    max_actions
        Largest number of ground actions that differ from their defaults at once, instead of the
        instance's ``max-nondef-actions``.
    horizon
        Steps per episode, instead of the instance's.
    action_bounds
        Bounds of integer and real action fluents, by name, in addition to those of the
        preconditions.

    Raises
    ------
    ImportError
        If pyRDDLGym or rddlrepository is missing: ``pip install "milp-rl[rddl]"``.
    ValueError
        If the domain or instance is unknown, it is partially observed, an action has no bounds,
        or a precondition is not linear in the actions.

    Examples
    --------
    Computers that fail more often where their neighbours are down, at most 2 reboots a step:

    >>> from milp_rl.envs import from_rddl
    >>> env = from_rddl("SysAdmin_MDP_ippc2011", "1", max_actions=2)
    >>> env.arm_layout.n_arms, env.arm_layout.arm_features, env.action_names[0]
    (10, 1, 'reboot(c1)')
    >>> state, _ = env.reset(seed=0)
    >>> env.action_space_block(state)
    BudgetTopK(n_actions=10, k=2, exactly=False)
    """
    with needs("rddl"), contextlib.redirect_stdout(io.StringIO()):  # pygame greets
        from pyRDDLGym.core.compiler.model import RDDLLiftedModel
        from pyRDDLGym.core.parser.parser import RDDLParser
        from pyRDDLGym.core.parser.reader import RDDLReader
    domain_file, instance_file = _files(str(domain), str(instance))
    parser = RDDLParser(lexer=None, verbose=False)
    with contextlib.redirect_stderr(io.StringIO()):  # the parser generator tells of its tables
        parser.build(debug=False, write_tables=False)
    model = RDDLLiftedModel(parser.parse(RDDLReader(domain_file, instance_file).rddltxt))
    return RDDLEnv(model, max_actions=max_actions, horizon=horizon, action_bounds=action_bounds)


def _files(domain: str, instance: str) -> tuple[str, str]:
    """Return the files of a domain and an instance."""
    if Path(domain).is_file() and Path(instance).is_file():
        return domain, instance
    try:
        from rddlrepository.core.error import RDDLRepoDomainNotExistError
        from rddlrepository.core.manager import RDDLRepoManager
    except ImportError as error:
        raise ImportError(
            f"{domain} and {instance} are not both files, and rddlrepository, which has named"
            ' problems, is missing: pip install "milp-rl[rddl]"'
        ) from error
    try:
        problem = RDDLRepoManager().get_problem(domain)
    except RDDLRepoDomainNotExistError:
        raise ValueError(f"{domain!r} is no problem of rddlrepository and no file") from None
    known = problem.list_instances()
    if instance not in known:
        raise ValueError(f"{domain} has no instance {instance!r}; it has {', '.join(known)}")
    return problem.get_domain(), problem.get_instance(instance)


def _constraints(model: Any) -> list[tuple[str, Any]]:
    """Return the expressions that must hold of states and actions, and what to call them."""
    from pyRDDLGym.core.debug.decompiler import RDDLDecompiler

    kinds = [
        ("action-precondition", model.preconditions),
        ("state-action-constraint", getattr(model.ast.domain, "constraints", [])),
    ]
    found = []
    for kind, expressions in kinds:
        for expression in expressions:
            text = " ".join(RDDLDecompiler().decompile_expr(expression).split())
            found.append((f"the {kind} {textwrap.shorten(text, 160)}", expression))
    return found


def _is_bound(formula: Formula) -> bool:
    coefficients = getattr(formula, "coefficients", None)
    return coefficients is not None and len(coefficients) == 1
