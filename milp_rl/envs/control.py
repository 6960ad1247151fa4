"""Gymnasium's continuous control with constraints on the action, for learners with exact argmax."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.spaces import FeasibleBox
from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box


class ConstrainedControl(gym.Env[Any, Any]):
    """An environment with vector observations and continuous actions, and a :class:`Box` of them.

    Ryu et al. (CAQL, ICLR 2020) restrict the ranges of actions in the same manner. Everything but
    the action space is the environment's own.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleBox`, float64, of the shape of the environment's own
    actions: those in ``constraints`` and within the environment's bounds. An action is converted to
    the environment's dtype; :meth:`step` raises ``ValueError`` for one that is not feasible.

    Observation Space
    -----------------
    The environment's own.

    Rewards
    -------
    The environment's own, as ``float``.

    Starting State
    --------------
    The environment's own; seed and options of :meth:`reset` are passed to it.

    Episode End
    -----------
    The environment's own: it terminates and truncates.

    Arguments
    ---------
    An environment that is made already, and the constraints. It is not registered.

    ```python
    ConstrainedControl(gymnasium.make("Pendulum-v1"), Box([-0.66], [0.66]))
    ```

    Parameters
    ----------
    env
        With a one-dimensional ``gymnasium.spaces.Box`` of actions, all bounds finite.
    constraints
        Feasible actions, intersected with the environment's own bounds; by default these.

    Raises
    ------
    ValueError
        If the environment's actions are not such a box, or no action is feasible.

    Examples
    --------
    >>> import gymnasium as gym
    >>> from milp_rl import Box
    >>> env = ConstrainedControl(gym.make("Pendulum-v1"), Box([-0.66], [0.66]))
    >>> env.action_space_block()
    Box(lower=[-0.66], upper=[0.66])
    """

    def __init__(self, env: gym.Env[Any, Any], constraints: Box | None = None) -> None:
        own = env.action_space
        if not isinstance(own, gym.spaces.Box) or len(own.shape) != 1 or not own.is_bounded():
            raise ValueError(f"the environment's actions must be a bounded vector, got {own}")
        block: ActionSpace = Box(own.low.astype(float), own.high.astype(float))
        if constraints is not None:
            block = block & constraints
        if not isinstance(block, Box):
            raise ValueError(f"no action of {own} is within the constraints {constraints}")
        self.inner = env
        self._block = block
        self.observation_space = env.observation_space
        self.action_space = FeasibleBox(block)
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.spec = env.spec

    def action_space_block(self, state: ArrayLike | None = None) -> ActionSpace:
        """Return the feasible set; it is the same in every state."""
        return self._block

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return self.inner.reset(seed=seed, options=options)

    def step(self, action: ActionArray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; raises ``ValueError`` if the action is not feasible."""
        if violations := self._block.violations(action):
            raise ValueError(f"infeasible action: {'; '.join(violations)}")
        observed, reward, terminated, truncated, info = self.inner.step(
            np.asarray(action, dtype=self.inner.action_space.dtype)
        )
        return observed, float(reward), terminated, truncated, info

    def render(self) -> Any:
        """Render the environment."""
        return self.inner.render()

    def close(self) -> None:
        """Close the environment."""
        self.inner.close()
