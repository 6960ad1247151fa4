"""An environment of interacting interventions with a known dependency graph."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.known_model import KnownModelEnv, StateArray
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.piecewise import relu_pieces, sigmoid_chord_error, sigmoid_points
from milp_rl.formulations.suggestions import unknown
from milp_rl.graphq.instance import InterventionsInstance
from milp_rl.graphq.presets import PRESETS

ONE_STEP_ERROR = 1e-3
_START = 0.5
_TOLERANCE = 1e-6


class SyntheticInterventions(KnownModelEnv):
    """Interventions that move variables, together and through each other.

    The model is in :mod:`milp_rl.graphq.instance`.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of ``instance.block``: a binary vector, int8,
    shape (n,), with a one for each intervention chosen. In generated instances at most ``budget``
    are chosen.

    Observation Space
    -----------------
    ``Box(0, 1, (M,), float32)``: the m variables; with a ``period``, M = m + 2, and the last two
    are (1 + sine) / 2 and (1 + cosine) / 2 of the clock; otherwise M = m.

    Rewards
    -------
    v @ x' - c @ a: the value of the variables after the step, less the costs of the interventions.

    Starting State
    --------------
    Every variable uniform on [0, 0.5), and the clock at one of its ``period`` times; or the state
    given as ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` steps, 20 by default; never terminated.

    Arguments
    ---------
    ``import milp_rl.graphq`` registers the environment.

    ```python
    instance = InterventionsInstance.generate(20, 5, seed=0)
    gymnasium.make("milp_rl/SyntheticInterventions-v0", instance=instance)
    ```

    Parameters
    ----------
    instance
        The problem; by default ``InterventionsInstance.generate(seed=0)``.
    """

    def __init__(self, instance: InterventionsInstance | None = None) -> None:
        self.instance = InterventionsInstance.generate(seed=0) if instance is None else instance
        i = self.instance
        states = gym.spaces.Box(0.0, 1.0, (len(i.observed),), np.float32)
        super().__init__(i.block, i.horizon, states, len(i.variables))

    @property
    def interventions(self) -> tuple[str, ...]:
        """Names of the interventions."""
        return self.instance.interventions

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the observed variables."""
        return self.instance.observed

    def check_states(self, states: ArrayLike) -> FloatArray:
        """Return ``states``, shape (..., M), as float64, or raise ``ValueError``."""
        values = np.asarray(states, dtype=np.float64)
        if values.shape[-1:] != (self.state_dim,):
            raise ValueError(f"a state has shape (..., {self.state_dim}), got {values.shape}")
        valid = (values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE)
        if not valid.all():
            raise ValueError(f"variables lie in [0, 1], got {values[~valid].flat[0]}")
        return values

    def expected_next(self, states: ArrayLike, actions: ArrayLike) -> FloatArray:
        """Return the expected next variables, without the clock, shape (..., m)."""
        return np.asarray((1.0 - self.instance.relapse) * self._mean(states, actions))

    def _mean(self, states: ArrayLike, actions: ArrayLike) -> FloatArray:
        """Return the expected next variables without relapses, mu."""
        left_alone, push = self._left_alone(self.check_states(states)), np.tanh(self._push(actions))
        return np.asarray(
            left_alone
            + np.maximum(push, 0.0) * (1.0 - left_alone)
            - np.maximum(-push, 0.0) * left_alone
        )

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return v @ E[x'] - c @ a, shape (...)."""
        i = self.instance
        return np.asarray(
            self.expected_next(state, action) @ i.weights - np.asarray(action) @ i.costs
        )

    def transition(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, FloatArray]:
        """Move the variables and the clock."""
        i = self.instance
        mean = self._mean(states, actions)
        noise = 2.0 * (uniforms - i.relapse) / (1.0 - i.relapse) - 1.0
        moved = mean + i.noise * np.minimum(mean, 1.0 - mean) * noise
        moved[uniforms < i.relapse] = 0.0
        rewards = np.asarray(moved @ i.weights - np.asarray(actions) @ i.costs)
        if i.period:
            clock = np.broadcast_to(
                self._turned(np.asarray(states, dtype=np.float64)[..., -2:]), (*moved.shape[:-1], 2)
            )
            moved = np.concatenate([moved, clock], axis=-1)
        return moved.astype(np.float32), rewards

    def start_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Draw variables uniform on [0, 0.5) and a random time."""
        drawn = rng.random((n, len(self.instance.variables))) * _START
        return self._with_clock(drawn, rng)

    def informative_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return the base, all low, all high, each variable alone high, and ``n`` random states."""
        m = len(self.instance.variables)
        fixed = np.concatenate(
            [self.instance.base[None], np.zeros((1, m)), np.ones((1, m)), np.eye(m)]
        )
        return self._with_clock(np.concatenate([fixed, rng.random((n, m))]), rng)

    def one_step_network(self, state: ArrayLike) -> Network:
        """Return the expected reward of a step as a network of the action, see ``RestlessBandit``.

        The first layer makes the products of pairs, exactly; the second the saturation, piecewise
        linear, off by at most :attr:`one_step_error`.
        """
        i, n = self.instance, self.instance.block.n_actions
        checked = self.check_states(state)
        if checked.ndim != 1:
            raise ValueError(f"a state must be a vector, got shape {checked.shape}")
        left_alone, value = self._left_alone(checked), (1.0 - i.relapse) * i.weights
        first = np.concatenate([np.eye(n), np.zeros((len(i.pairs), n))])
        for p, pair in enumerate(i.pairs):
            first[n + p, pair] = 1.0
        first_bias = np.concatenate([np.zeros(n), np.full(len(i.pairs), -1.0)])
        weight, bias, output = [np.zeros(n + len(i.pairs))], [0.0], [0.0]
        begin = float(value @ left_alone)  # where every piecewise-linear gain begins
        for k, points in enumerate(self._breakpoints):
            if points is None:
                continue
            push = np.tanh(points)
            gain = np.where(push > 0, push * (1.0 - left_alone[k]), push * left_alone[k])
            begin += float(value[k] * gain[0])
            row = np.concatenate([i.effects[k], i.pair_effects[k]])
            for piece, point in zip(relu_pieces(points, gain), points, strict=False):
                weight.append(row)
                bias.append(-point)
                output.append(value[k] * piece)
        # The costs pass through the second layer: actions and products are nonnegative.
        width = n + len(i.pairs)
        second = np.concatenate([np.array(weight), np.eye(width)])
        second_bias = np.concatenate([bias, np.zeros(width)])
        last = np.concatenate([output, -i.costs, np.zeros(len(i.pairs))])
        return Network.from_arrays([first, second, last[None]], [first_bias, second_bias, [begin]])

    @cached_property
    def one_step_error(self) -> float:
        """Largest error of :meth:`one_step_network` at any action, in any state."""
        weights = self.instance.weights
        return float(
            sum(
                2.0 * abs(v) * sigmoid_chord_error(2.0 * points)
                for v, points in zip(weights, self._breakpoints, strict=True)
                if points is not None
            )
        )

    @cached_property
    def _breakpoints(self) -> list[FloatArray | None]:
        """Breakpoints of each variable's push; ``None`` where nothing pushes or it has no value."""
        i = self.instance
        share = ONE_STEP_ERROR / (4 * max(len(i.variables), 1))
        found: list[FloatArray | None] = []
        for v, effects, pair_effects in zip(i.weights, i.effects, i.pair_effects, strict=True):
            row = np.concatenate([effects, pair_effects])
            low, high = np.minimum(row, 0.0).sum(), np.maximum(row, 0.0).sum()
            if v == 0 or low == high:
                found.append(None)
                continue
            points = sigmoid_points(2.0 * low, 2.0 * high, max(share / max(abs(v), share), 1e-9))
            found.append(points / 2.0)
        return found

    def _push(self, actions: ArrayLike) -> FloatArray:
        i, a = self.instance, np.asarray(actions, dtype=np.float64)
        if a.shape[-1:] != (i.block.n_actions,):
            raise ValueError(f"an action has shape (..., {i.block.n_actions}), got {a.shape}")
        pairs = a[..., i.pairs[:, 0]] * a[..., i.pairs[:, 1]]
        return np.asarray(a @ i.effects.T + pairs @ i.pair_effects.T)

    def _left_alone(self, states: FloatArray) -> FloatArray:
        i = self.instance
        rest = (1.0 - np.abs(i.influences).sum(axis=1)) * i.base
        up, down = np.maximum(i.influences, 0.0), np.maximum(-i.influences, 0.0)
        return np.asarray(states @ up.T + (1.0 - states) @ down.T + rest)

    def _with_clock(self, variables: FloatArray, rng: np.random.Generator) -> StateArray:
        if not self.instance.period:
            return variables.astype(np.float32)
        angle = 2 * np.pi * rng.integers(self.instance.period, size=len(variables))
        angle = angle / self.instance.period
        clock = (1.0 + np.stack([np.sin(angle), np.cos(angle)], axis=1)) / 2.0
        return np.concatenate([variables, clock], axis=1).astype(np.float32)

    def _turned(self, clock: FloatArray) -> FloatArray:
        """Return the clock one step later."""
        sine, cosine = 2.0 * clock[..., 0] - 1.0, 2.0 * clock[..., 1] - 1.0
        angle = np.arctan2(sine, cosine) + 2 * np.pi / self.instance.period
        return np.asarray((1.0 + np.stack([np.sin(angle), np.cos(angle)], axis=-1)) / 2.0)


def make_interventions(preset: str, *, seed: int, **changes: Any) -> SyntheticInterventions:
    """Draw an instance of a preset size and return its environment.

    Action Space
    ------------
    Binary, int8, shape (n,): which interventions are chosen, as the preset's block allows.

    Observation Space
    -----------------
    ``Box(0, 1, (M,), float32)``: the variables, and the clock if there is one.

    Rewards
    -------
    The value of the variables after the step, less the costs of the interventions.

    Starting State
    --------------
    Every variable uniform on [0, 0.5), and the clock at a random time.

    Episode End
    -----------
    Truncated after ``horizon`` steps, 20 by default; never terminated. All of this as in
    :class:`SyntheticInterventions`.

    Arguments
    ---------
    The environment's ``spec`` has them, and ``gymnasium.make`` takes them too.

    ```python
    make_interventions("10x10", seed=0, horizon=10)
    gymnasium.make("milp_rl/Interventions-v0", preset="10x10", seed=0, horizon=10)
    ```

    Parameters
    ----------
    preset
        A name in :data:`milp_rl.graphq.PRESETS`.
    seed
        Seed of the instance.
    **changes
        Arguments of the preset's generator to give otherwise, such as ``horizon``.

    Raises
    ------
    ValueError
        If the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(unknown("preset", preset, PRESETS))
    env = SyntheticInterventions(PRESETS[preset](seed=seed, **changes))
    arguments = {"preset": preset, "seed": seed, **changes}
    env.spec = replace(gym.spec("milp_rl/Interventions-v0"), kwargs=arguments)
    return env
