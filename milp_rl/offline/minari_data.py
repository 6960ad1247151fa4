"""Logged transitions as Minari data sets, with the feasible set in their metadata.

Minari keeps the Gymnasium spaces of an environment, of a combinatorial set the surrounding
``MultiBinary``. Here the constraint blocks go with the data, as JSON
(:meth:`~milp_rl.ActionSpace.to_dict`): under :data:`SETS` the different sets, and, where there are
several, under the info :data:`WHICH` of every step the number of its state's. It needs Minari
(``pip install milp-rl[minari]``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.fixed_set import shown
from milp_rl.envs.transitions import Transitions
from milp_rl.extras import needs
from milp_rl.formulations.spaces.base import ActionSpace

SETS = "milp_rl_feasible_sets"
WHICH = "milp_rl_feasible_set"
_NAMES = "milp_rl_names"


class SetsOfStates:
    """The feasible sets of the states of a data set; called with a state, it returns its set.

    Parameters
    ----------
    states, which
        Shapes (n, state_dim) and (n,): the number of each state's set, -1 of one that has none.
    sets
        The different sets.

    Raises
    ------
    ValueError
        If a state has two sets; when called, if it is none of these states.
    """

    def __init__(
        self, states: NDArray[Any], which: NDArray[np.intp], sets: list[ActionSpace]
    ) -> None:
        self.sets = sets
        self._known: dict[bytes, int] = {}
        for state, i in zip(states, which.tolist(), strict=True):
            if i >= 0 and self._known.setdefault(_key(state), i) != i:
                raise ValueError(f"the data set has two feasible sets for state {shown(state)}")

    def __call__(self, state: Any) -> ActionSpace:
        """Return the feasible set in a state."""
        found = self._known.get(_key(state))
        if found is None:
            raise ValueError(
                f"the data set has no feasible set for state {shown(state)}: it knows those of the"
                " states in it only; give a function of the state, such as the environment's"
                " action_space_block"
            )
        return self.sets[found]


def write_minari(
    transitions: Transitions,
    dataset_id: str,
    env: gym.Env[Any, Any] | None = None,
    *,
    feasible: ActionSpace | Callable[[Any], ActionSpace] | None = None,
    description: str | None = None,
    **metadata: Any,
) -> Any:
    """Write logged transitions as a Minari data set.

    Episodes are told apart by their order: one goes on as long as a row begins in the state in
    which the row before it ended. The last step of one that is not terminated is truncated.

    Parameters
    ----------
    transitions
        The logged decisions.
    dataset_id
        Its name in Minari, such as ``"bandit/random-v0"``. There must be none of that name yet.
    env
        The environment: its spaces, and its ``spec``, by which ``recover_environment`` makes it
        again; those of :func:`~milp_rl.envs.make_bandit` and ``gymnasium.make`` have one.
    feasible
        The feasible set or a function of the state; by default ``transitions.feasible``.
    description
        What the data are.
    **metadata
        More of ``minari.create_dataset_from_buffers``, such as ``author`` or ``algorithm_name``.

    Returns
    -------
    minari.MinariDataset
        The data set, as Minari lists and loads it.

    Raises
    ------
    ValueError
        If there is no feasible set, a data set of that name is there already, or the environment's
        spaces are of whole numbers and a state or action is not.
    ImportError
        If Minari is not installed.
    """
    minari = _minari()
    t = transitions
    given = t.feasible if feasible is None else feasible
    if given is None:
        raise ValueError("there is no feasible set to write: give the action space as feasible")
    sets, first, following = _sets_of(t, given)
    several = len(sets) > 1
    spaces = _spaces(t, sets[0]) if env is None else {"env": env}
    dtypes = _dtypes(t, env, sets[0])
    buffers = []
    for number, rows in enumerate(_episodes(t)):
        last = rows[-1]
        observations = np.concatenate([t.states[rows], t.next_states[last][None]])
        ends = np.asarray(t.terminated)[rows]
        truncated = np.zeros(len(rows), dtype=bool)
        truncated[-1] = not ends[-1]
        which = np.append(first[rows], following[last])[:, None]  # Minari reads no flat arrays
        infos = {WHICH: which} if several else {}
        buffer = minari.data_collector.EpisodeBuffer(
            id=number,
            observations=_cast(observations, dtypes[0], "state"),
            actions=_cast(t.actions[rows], dtypes[1], "action"),
            rewards=list(t.rewards[rows]),
            terminations=list(ends),
            truncations=list(truncated),
            infos=infos,
        )
        buffers.append(buffer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about metadata that one may leave out
        dataset = minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            buffer=buffers,
            data_format="arrow",
            description=description,
            **spaces,
            **metadata,
        )
    dataset.storage.update_metadata(
        {
            SETS: [space.to_dict() for space in sets],
            _NAMES: {"interventions": list(t.interventions), "variables": list(t.variables)},
        }
    )
    return dataset


def read_minari(
    dataset: Any, *, feasible: ActionSpace | Callable[[Any], ActionSpace] | None = None
) -> Transitions:
    """Read a Minari data set of vectors as transitions.

    Parameters
    ----------
    dataset
        A ``minari.MinariDataset`` or its name.
    feasible
        The feasible set, or a function of the state; by default what :func:`write_minari` kept,
        or else that of the environment that the data set recovers, if it has one.

    Returns
    -------
    Transitions
        With the feasible set as ``transitions.feasible``; ``None`` if nothing says it.

    Raises
    ------
    ValueError
        If observations or actions are not vectors, or a feasible set cannot be read.
    ImportError
        If Minari is not installed.
    """
    minari = _minari()
    data = minari.load_dataset(dataset) if isinstance(dataset, str) else dataset
    for kind in ("observation", "action"):
        space = getattr(data, f"{kind}_space")
        if space.shape is None or len(space.shape) != 1:
            raise ValueError(f"{kind}s must be vectors, those of {data.id} are {space}")
    metadata = data.storage.metadata
    columns: list[tuple[NDArray[Any], ...]] = []
    observed, which = [], []
    for episode in data.iterate_episodes():
        seen = np.asarray(episode.observations, dtype=np.float64)
        columns.append(
            (seen[:-1], episode.actions, episode.rewards, seen[1:], episode.terminations)
        )
        if WHICH in episode.infos:
            observed.append(seen)
            which.append(np.asarray(episode.infos[WHICH]).reshape(-1))
    states, actions, rewards, following, ends = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    own = feasible
    if own is None and SETS in metadata:
        sets = [ActionSpace.from_dict(one) for one in metadata[SETS]]
        own = sets[0]
        if len(sets) > 1:
            own = SetsOfStates(np.concatenate(observed), np.concatenate(which), sets)
    elif own is None and data.env_spec is not None:
        env = data.recover_environment()
        if env.has_wrapper_attr("action_space_block"):
            own = env.get_wrapper_attr("action_space_block")
    names = metadata.get(_NAMES, {})
    return Transitions(
        states,
        actions,
        rewards,
        following,
        ends,
        interventions=tuple(names.get("interventions", ())),
        variables=tuple(names.get("variables", ())),
        feasible=own,
    )


def _minari() -> Any:
    with needs("minari"):
        import minari
        import minari.data_collector
    return minari


def _episodes(t: Transitions) -> list[NDArray[np.intp]]:
    """Return the rows of each episode."""
    same = (t.states[1:] == t.next_states[:-1]).all(axis=1) & ~np.asarray(t.terminated)[:-1]
    return np.split(np.arange(len(t)), np.flatnonzero(~same) + 1)


def _sets_of(
    t: Transitions, feasible: ActionSpace | Callable[[Any], ActionSpace]
) -> tuple[list[ActionSpace], NDArray[np.intp], NDArray[np.intp]]:
    """Return the different sets, and the number of that of each state and next state.

    In a state in which an episode terminated nothing is chosen: -1.
    """
    zeros = np.zeros(len(t), dtype=np.intp)
    if isinstance(feasible, ActionSpace):
        return [feasible], zeros, zeros
    numbers: dict[str, int] = {}
    sets: list[ActionSpace] = []
    found = []
    ends = np.append(np.zeros(len(t), dtype=bool), np.asarray(t.terminated))
    for state, over in zip((*t.states, *t.next_states), ends, strict=True):
        if over:
            found.append(-1)
            continue
        space = feasible(state.astype(np.float32))
        i = numbers.setdefault(repr(space.to_dict()), len(sets))
        if i == len(sets):
            sets.append(space)
        found.append(i)
    both = np.array(found, dtype=np.intp)
    return sets, both[: len(t)], both[len(t) :]


def _spaces(t: Transitions, space: ActionSpace) -> dict[str, gym.Space[Any]]:
    """Return Gymnasium spaces that hold the data."""
    n = space.n_actions
    actions: gym.Space[Any] = gym.spaces.MultiBinary(n)
    if not space.binary:
        actions = gym.spaces.Box(space.lower, space.upper, dtype=np.float64)
    states = gym.spaces.Box(-np.inf, np.inf, (t.states.shape[1],), np.float64)
    return {"action_space": actions, "observation_space": states}


def _dtypes(
    t: Transitions, env: gym.Env[Any, Any] | None, space: ActionSpace
) -> tuple[np.dtype[Any], np.dtype[Any]]:
    spaces = _spaces(t, space)
    own = [spaces["observation_space"], spaces["action_space"]]
    if env is not None:
        own = [env.observation_space, env.action_space]
    observed, acted = (np.dtype(space.dtype) for space in own)
    return observed, acted


def _key(state: Any) -> bytes:
    return np.asarray(state, dtype=np.float32).tobytes()


def _cast(values: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """Return values in an environment's dtype; what whole numbers cannot hold is refused."""
    cast = values.astype(dtype)
    if np.issubdtype(dtype, np.floating):
        return cast
    lost = np.argwhere(cast != values)
    if len(lost):
        value = values[tuple(lost[0])]
        raise ValueError(
            f"the environment's {what}s are of dtype {dtype}, in which {value} would become"
            f" {cast[tuple(lost[0])]}: give an environment whose {what}s are like those logged, or"
            " none"
        )
    return cast
