"""Many episodes of one environment played at once, without a loop over them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.known_model import KnownModelEnv, StateArray
from milp_rl.envs.spaces import FeasibleActionRows, FeasibleActions
from milp_rl.formulations.arrays import ActionArray, FloatArray


class ParallelEpisodes(gym.vector.VectorEnv[StateArray, ActionArray, NDArray[Any]]):
    """Parallel episodes of one environment, as a Gymnasium vector environment.

    Episode i, reset with seed s, is the episode that ``env`` plays when reset with that seed: the
    same start, the same luck, the same rewards. As the horizon is one for all, all episodes end
    together; the step after that starts new ones and ignores its actions (Gymnasium's next-step
    autoreset).

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActionRows`: a binary matrix, int8, shape (n, n_actions),
    one feasible action per row.

    Observation Space
    -----------------
    ``env.observation_space`` batched: float32, shape (n, state_dim).

    Rewards
    -------
    Those of ``env``, float64, shape (n,); 0 in the step that starts new episodes.

    Starting State
    --------------
    One start state of ``env`` per episode, from its own seed; or those given as
    ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    All episodes are truncated together after ``env.horizon`` steps; none is terminated.

    Arguments
    ---------
    An environment whose model is known, and the number of episodes.

    ```python
    ParallelEpisodes(make_bandit("capacity", 10, 3, seed=0), num_envs=8)
    ```

    Parameters
    ----------
    env
        The environment (unwrapped); its own state plays no part.
    num_envs
        Number of episodes n.
    check_actions
        Whether every action is checked to be feasible, which is most of the time of a step where
        the check is a packing or routing problem. Switch it off for actions that were checked
        before, such as those of an exact argmax.

    Attributes
    ----------
    space
        The environment's declared feasible set. Where a state has another,
        ``action_space.each`` has that of each episode, which actions are drawn from and checked
        against.

    Raises
    ------
    TypeError
        If the environment's model is not known.
    ValueError
        If ``num_envs`` is below 1.
    """

    action_space: FeasibleActionRows
    metadata = {  # noqa: RUF012  (Gymnasium's own declaration)
        "render_modes": [],
        "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP,
    }

    def __init__(self, env: KnownModelEnv, num_envs: int, *, check_actions: bool = True) -> None:
        if not isinstance(env, KnownModelEnv):
            raise TypeError(
                f"ParallelEpisodes needs an environment whose model is known (a KnownModelEnv,"
                f" unwrapped), got {type(env).__name__}; for others there is"
                " gymnasium.vector.SyncVectorEnv"
            )
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.env = env
        self.num_envs = int(num_envs)
        self.check_actions = check_actions
        self.single_observation_space = env.observation_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.single_action_space = env.action_space
        declared = env.action_space
        assert isinstance(declared, FeasibleActions)
        self.space = declared.block
        self.action_space = FeasibleActionRows(self.space, num_envs)
        self._feasible: FeasibleSets | None = None
        self._rngs: list[np.random.Generator] = []
        self._state = np.zeros((num_envs, env.state_dim), dtype=np.float32)
        self._luck: FloatArray = np.empty((num_envs, 0, env.luck_dim))
        self._steps = 0

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start new episodes.

        Parameters
        ----------
        seed
            One per episode, or one number s for the seeds s, s + 1, ...; by default the generators
            go on.
        options
            ``{"state": ...}`` gives start states, shape (n, J) or (J,).

        Raises
        ------
        ValueError
            If there is not one seed per episode, a state is not one, an option is unknown, or the
            feasible set of a state has other variables or does not depend on the state alone.
        """
        n = self.num_envs
        if isinstance(seed, int):
            seeds: list[int | None] = [seed + i for i in range(n)]
        else:
            seeds = [None] * n if seed is None else list(seed)
        if len(seeds) != n:
            raise ValueError(f"got {len(seeds)} seeds for {n} episodes")
        if not self._rngs:
            self._rngs = [np.random.default_rng() for _ in range(n)]
        for i, given in enumerate(seeds):
            if given is not None:
                self._rngs[i], _ = gym.utils.seeding.np_random(given)
        return self._begin(options or {})

    def step(
        self, actions: ActionArray
    ) -> tuple[StateArray, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take a step in all episodes.

        Parameters
        ----------
        actions
            Shape (n, n_actions), binary.

        Raises
        ------
        ValueError
            If an action is not feasible, with the violated constraints.
        gymnasium.error.ResetNeeded
            If :meth:`reset` was never called.
        """
        env, n = self.env, self.num_envs
        if not self._rngs:
            raise gym.error.ResetNeeded("call reset() first")
        none = np.zeros(n, dtype=bool)
        if self._steps == env.horizon:
            return self._begin({})[0], np.zeros(n), none, none.copy(), {}
        a = np.asarray(actions)
        if a.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {a.shape}")
        if self.check_actions:
            for i, violations in enumerate(self.action_space.violations(a)):
                if violations:
                    raise ValueError(f"infeasible action in episode {i}: {'; '.join(violations)}")
        self._state, rewards = env.transition(self._state, a, self._luck[:, self._steps])
        self._steps += 1
        self._check_set()
        over = np.full(n, self._steps == env.horizon)
        return self._state.copy(), rewards, none, over, {}

    def _begin(self, options: dict[str, Any]) -> tuple[StateArray, dict[str, Any]]:
        drawn = [self.env.draw_episode(rng) for rng in self._rngs]
        unknown = set(options) - {"state"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known is 'state'")
        start = self.env.check_states(options.get("state", [state for state, _ in drawn]))
        self._state = np.broadcast_to(start, self._state.shape).astype(np.float32)
        self._luck = np.stack([luck for _, luck in drawn])
        self._steps = 0
        self._check_set()
        return self._state.copy(), {}

    def _check_set(self) -> None:
        """Let the action space have the feasible set of each episode's state."""
        if self._feasible is None:
            self._feasible = FeasibleSets(self.env, self._state[0], "ParallelEpisodes", self.space)
        self._feasible.check_all(self._state)
        self.action_space.each = self._feasible.in_states(self._state)
