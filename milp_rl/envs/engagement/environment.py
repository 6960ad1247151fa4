"""Weekly service calls to mothers who may stop listening, as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.arms import Arms
from milp_rl.envs.engagement.drawn import WEEKS, draw_engagement
from milp_rl.envs.engagement.programme import Beneficiaries, Programme
from milp_rl.envs.known_model import KnownModelEnv, StateArray
from milp_rl.envs.spaces import FeasibleActions
from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.matching import Matching

_LUCK = 3  # whether a call is answered, whether the message shows something, whether she listens


class Engagement(KnownModelEnv):
    r"""Who calls whom when: a restless bandit of women, partially observed, coupled by a matching.

    Whether a woman listens is a chain of two states (:class:`Programme`), seen only in weeks whose
    message gets through. What is known of her is the probability b that she listens, her belief
    state, on which the process is a Markov decision process (Smallwood and Sondik, "The optimal
    control of partially observable Markov processes over a finite horizon", Operations Research 21,
    1973); it is restless without calls, and collapses to 0 or 1 when she is seen (Mate, Killian,
    Xu, Perrault and Tambe, "Collapsing bandits and their application to public health
    interventions", NeurIPS 2020).

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.Matching` of women and
    places, a place being one call of a caller in a slot: a binary vector, int8, shape (N * P,),
    woman by woman. Every woman and every place is in at most one pair, and there are at most
    ``budget`` pairs. A pair is eligible if the caller speaks the woman's language, she is free in
    the slot, and **in this state** she was not called in the last ``rest`` weeks: the feasible set
    differs from state to state, see :meth:`action_space_block`.

    Observation Space
    -----------------
    ``Box(0, 1, (2 N,), float32)``: of each woman the belief b that she listens, then the weeks in
    which she is still not called again, divided by ``rest``.

    Rewards
    -------
    The sum over women of their belief after the week, the expected number of listeners given what
    was seen; its expectation, also that of their number, is :meth:`expected_reward`.

    Starting State
    --------------
    All women listen and none was called; or the state given as ``options={"state": ...}`` to
    :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` weeks, 40 by default; never terminated.

    Arguments
    ---------
    ``import milp_rl.envs`` registers the environment.

    ```python
    programme, women = draw_engagement(20, seed=0)
    gymnasium.make("milp_rl/Engagement-v0", programme=programme, women=women)
    ```

    Parameters
    ----------
    programme, women
        Both given, or neither: then those of ``draw_engagement(20, seed=0)``.
    horizon
        Weeks per episode, at least 1.

    Raises
    ------
    ValueError
        If only one is given, or the women do not fit the programme.

    Examples
    --------
    >>> env = Engagement()
    >>> state, _ = env.reset(seed=0)
    >>> call = env.action_space_block(state).sample(np.random.default_rng(0), maximal=True)[0]
    >>> len(env.calls(call)), env.programme.budget
    (2, 2)
    """

    action_space: FeasibleActions

    def __init__(
        self,
        programme: Programme | None = None,
        women: Beneficiaries | None = None,
        *,
        horizon: int = WEEKS,
    ) -> None:
        if programme is None and women is None:
            programme, women = draw_engagement(20, seed=0)
        if programme is None or women is None:
            raise ValueError("give both programme and women, or neither")
        women.check(programme)
        self.programme, self.women = programme, women
        caller, slot = np.nonzero(programme.capacity)
        each = programme.capacity[caller, slot]
        self.places: IntArray = np.column_stack([np.repeat(caller, each), np.repeat(slot, each)])
        if not len(self.places):
            raise ValueError("no caller has time for a call: capacity must be positive somewhere")
        reach = women.pair_reach(programme)
        self.reach: FloatArray = reach[:, self.places[:, 0], self.places[:, 1]]
        n = len(women)
        states = gym.spaces.Box(0.0, 1.0, (2 * n,), np.float32)
        super().__init__(self._matching(np.ones(n, dtype=bool)), horizon, states, _LUCK * n)
        self.arm_layout = Arms(n, arm_features=2, arm_actions=len(self.places))
        names = [f"{programme.callers[k]}, {programme.slots[s]}" for k, s in self.places]
        self.interventions = tuple(
            f"woman {i}: {name} ({j})" for i in range(n) for j, name in enumerate(names)
        )
        self.variables = tuple(f"{what} {i}" for i in range(n) for what in ("belief", "rest"))

    def check_states(self, states: ArrayLike) -> FloatArray:
        """Return ``states``, shape (..., 2 N), as float64, or raise ``ValueError``."""
        values = np.asarray(states, dtype=np.float64)
        if values.shape[-1:] != (self.state_dim,):
            raise ValueError(f"a state has shape (..., {self.state_dim}), got {values.shape}")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("beliefs and weeks of rest lie in [0, 1]")
        return values

    def belief(self, states: ArrayLike) -> FloatArray:
        """Return the probability that each woman listens, shape (..., N)."""
        return self.check_states(states)[..., 0::2]

    def rested(self, states: ArrayLike) -> BoolArray:
        """Return which women may be called again, shape (..., N)."""
        left = self.check_states(states)[..., 1::2]
        return np.asarray(left * max(self.programme.rest, 1) < 0.5)

    def action_space_block(self, state: ArrayLike | None = None) -> ActionSpace:
        """Return the matching of a state: without pairs of women who were called too recently.

        Parameters
        ----------
        state
            Shape (2 N,); ``None`` for a week in which nobody was.
        """
        if state is None:
            return self._block
        rested = self.rested(state)
        return self._block if rested.all() else self._matching(rested)

    def calls(self, action: ArrayLike) -> list[tuple[int, str, str]]:
        """Return the calls of an action: number of the woman, caller, slot."""
        pairs = np.argwhere(self._pairs(action) > 0)
        return [
            (
                int(i),
                self.programme.callers[self.places[p, 0]],
                self.programme.slots[self.places[p, 1]],
            )
            for i, p in pairs
        ]

    def gains(self, state: ArrayLike) -> FloatArray:
        """Return what each pair adds to the expected reward of the week, shape (..., N, P)."""
        gain = self.programme.gain(self.belief(state), self.women.cluster)
        return np.asarray(gain[..., None] * self.reach)

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return the expected number of women who listen next week, shape (...)."""
        b = self.belief(state)
        answered = self._answered(action)
        idle = self.programme.next_belief(b, self.women.cluster)
        return np.asarray((idle + answered * self.programme.gain(b, self.women.cluster)).sum(-1))

    def one_step_network(self, state: ArrayLike) -> Network:
        """Return the expected reward, which is linear in the action, as a network."""
        nothing = self.expected_reward(state, np.zeros(self._block.n_actions))
        return Network.from_arrays([self.gains(state).reshape(1, -1)], [[nothing]])

    def transition(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, FloatArray]:
        """Move a week; rewards are the sums of the beliefs after it."""
        following, _ = self.week(states, actions, uniforms)
        return following, np.asarray(following[..., 0::2].sum(axis=-1, dtype=np.float64))

    def week(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, NDArray[np.int8]]:
        """Move a week, and say what was observed of each woman.

        Parameters
        ----------
        states, actions, uniforms
            As for :meth:`transition`.

        Returns
        -------
        tuple of numpy.ndarray
            Next states, and of each woman whether a call was answered (0, 1; -1 if none was made),
            whether she was seen, and whether she listened (-1 if not seen), shape (..., N, 3).
        """
        s = self.check_states(states)
        b, left = s[..., 0::2], s[..., 1::2]
        answer, shown, listen = np.moveaxis(
            uniforms.reshape(*uniforms.shape[:-1], len(self.women), _LUCK), -1, 0
        )
        called = self._pairs(actions).sum(axis=-1) > 0
        answered = answer < self._answered(actions)
        c = self.women.cluster
        chance = np.where(
            answered,
            self.programme.next_belief(b, c, called=True),
            self.programme.next_belief(b, c),
        )
        seen, listens = shown < self.programme.seen, listen < chance
        after = np.where(seen, listens, chance)
        weeks = max(self.programme.rest, 1)
        resting = np.where(
            called, float(self.programme.rest > 0), np.rint(left * weeks - 1) / weeks
        )
        following = np.stack([after, np.clip(resting, 0.0, 1.0)], axis=-1)
        observed = np.stack(
            np.broadcast_arrays(np.where(called, answered, -1), seen, np.where(seen, listens, -1)),
            axis=-1,
        )
        return (
            following.reshape(*following.shape[:-2], self.state_dim).astype(np.float32),
            observed.astype(np.int8),
        )

    def start_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return ``n`` times the state in which all listen and none was called."""
        start = np.zeros((n, self.state_dim), dtype=np.float32)
        start[:, 0::2] = 1.0
        return start

    def informative_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return states in which all listen, or none, and ``n`` of random beliefs and rests."""
        states = rng.random((n + 2, len(self.women), 2))
        states[rng.random(states.shape[:2]) < 0.5, 0] = 1.0
        weeks = max(self.programme.rest, 1)
        states[..., 1] = np.where(
            states[..., 1] < 0.7, 0.0, rng.integers(0, weeks + 1, states.shape[:2]) / weeks
        )
        states[0] = (1.0, 0.0)
        states[1] = 0.0
        return states.reshape(n + 2, -1).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode; raises ``ValueError`` for a state that is none."""
        found = super().reset(seed=seed, options=options)
        self.action_space.block = self.action_space_block(self._state)
        return found

    def step(self, action: ActionArray) -> tuple[StateArray, float, bool, bool, dict[str, Any]]:
        """Move a week; raises ``ValueError`` for an action that is not feasible."""
        found = super().step(action)
        self.action_space.block = self.action_space_block(self._state)
        return found

    def _matching(self, rested: BoolArray) -> Matching:
        eligible = (self.reach > 0) & rested[:, None]
        return Matching(eligible, max_pairs=self.programme.budget)

    def _pairs(self, action: ArrayLike) -> NDArray[Any]:
        a = np.asarray(action)
        if a.shape[-1:] != (self.reach.size,):
            raise ValueError(f"an action has shape (..., {self.reach.size}), got {a.shape}")
        return a.reshape(*a.shape[:-1], *self.reach.shape)

    def _answered(self, action: ArrayLike) -> FloatArray:
        """Return the probability that each woman answers a call, at most 1, shape (..., N)."""
        answers = np.einsum("...np,np->...n", self._pairs(action), self.reach)
        return np.asarray(np.minimum(answers, 1.0))
