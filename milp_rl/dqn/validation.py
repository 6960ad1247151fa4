"""Playing episodes with the greedy policy while training, and keeping the best network."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from milp_rl.dqn.agent import DQNAgent
from milp_rl.dqn.cached_argmax import CachedArgmax
from milp_rl.dqn.callbacks import Callback
from milp_rl.dqn.checkpoint import read_tensors
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.known_model import KnownModelEnv
from milp_rl.envs.vector import ParallelEpisodes
from milp_rl.evaluation.evaluate import evaluate
from milp_rl.formulations.arrays import ActionArray, FloatArray, IntArray
from milp_rl.formulations.files import write_atomically

CURVE = "validation.csv"
NAN = float("nan")


class GreedyEpisodes:
    """Episodes that the greedy policy of a network plays, the same ones every time.

    What training draws and remembers is not touched.

    Parameters
    ----------
    env
        The environment; the state of a :class:`KnownModelEnv` plays no part, any other is played.
    episodes
        Their number, at least 1.
    seed
        Seed of the first of them; the others' follow it.
    """

    def __init__(self, env: gym.Env[Any, Any], episodes: int, seed: int) -> None:
        self.env = env
        self.parallel: ParallelEpisodes | None = None
        if isinstance(env, KnownModelEnv):
            self.parallel = ParallelEpisodes(env, episodes, check_actions=False)
        self._seeds = range(seed, seed + episodes)
        self._policy: CachedArgmax | None = None
        self._sets: FixedSet

    def play(self, agent: DQNAgent) -> tuple[FloatArray, IntArray]:
        """Return each episode's mean reward, expected where the model is known, and its steps."""
        if self._policy is None or self._policy.network is not agent.network:
            self._sets = copy.copy(agent._feasible)  # meets states that the agent does not
            self._policy = agent.learner.new_argmax(agent.network, self._sets)
            if self.parallel is None:
                self.env = agent.adapted(self.env)
        self._policy.renew()
        if self.parallel is None:
            policy = _Greedy(self._policy, self._sets)
            results = evaluate(self.env, {"of validation": policy}, seeds=self._seeds)
            return results["reward"].to_numpy(dtype=float), results["steps"].to_numpy(dtype=int)
        episodes, env = self.parallel, self.parallel.env
        fits = agent.space == episodes.space
        states, _ = episodes.reset(seed=self._seeds.start)
        rewards = []
        for _ in range(env.horizon):
            self._sets.check_all(states)
            episodes.check_actions = not fits or self._sets.varies
            actions = self._policy.actions(states)
            rewards.append(env.expected_reward(states, actions))
            states, *_ = episodes.step(actions)
        return np.mean(rewards, axis=0), np.full(len(self._seeds), env.horizon)


class Validation(Callback):
    """Plays the same episodes with the greedy policy every few episodes of training.

    Writes the rewards to ``validation.csv`` and the weights of each network beside it, so that the
    best one can be used after training (:meth:`best`) and a resumed run ends with the same files.

    Parameters
    ----------
    env
        The environment; the state of a :class:`KnownModelEnv` plays no part, any other is played.
    folder
        Where to write; made if it does not exist.
    every
        Episodes of training between validations, at least 1; the last is always validated.
    episodes
        Validation episodes, at least 1.
    seed
        Seed of the first of them; the others' follow it.

    Raises
    ------
    ValueError
        If a number is below 1.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        folder: str | Path,
        *,
        every: int = 10,
        episodes: int = 50,
        seed: int = 1_000_000,
    ) -> None:
        if every < 1 or episodes < 1:
            raise ValueError(f"every and episodes must be at least 1, got {every} and {episodes}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.every = every
        self._episodes = GreedyEpisodes(env, episodes, seed)
        self._rows: dict[int, float] = {}

    def on_train_begin(self, agent: DQNAgent) -> None:
        """Read what was written before the checkpoint that training goes on from."""
        path = self.folder / CURVE
        self._rows = {}
        if path.exists():
            # Before pandas 3.1, its own way to read numbers may change their last digit.
            written = pd.read_csv(path, converters={"reward": float})
            known = zip(written["episode"], written["reward"], strict=True)
            self._rows = {int(e): float(r) for e, r in known if e <= agent.episode}
        if not agent.config.pretrain_epochs and not agent.step:
            self._validate_if_due(agent)

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Validate the pretrained network."""
        if agent.epoch == agent.config.pretrain_epochs:
            self._validate_if_due(agent)

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Validate the network if it is due."""
        self._validate_if_due(agent)

    @property
    def rewards(self) -> dict[int, float]:
        """Validation rewards so far, by episode of training."""
        return dict(self._rows)

    def best(self) -> dict[str, Tensor]:
        """Return the weights of highest validation reward, the latest of equals.

        For :meth:`milp_rl.dqn.DQNAgent.use`.

        Raises
        ------
        ValueError
            If nothing was validated yet.
        """
        if not self._rows:
            raise ValueError("no network has been validated yet")
        episode = max(self._rows, key=lambda e: (self._rows[e], e))
        weights: dict[str, Tensor] = read_tensors(self._weights_path(episode))
        return weights

    def _validate_if_due(self, agent: DQNAgent) -> None:
        episode, last = agent.episode, agent.budget.episodes
        if episode in self._rows or (episode % self.every and episode != last):
            return
        weights = io.BytesIO()
        torch.save(agent.network.state_dict(), weights)
        write_atomically(self._weights_path(episode), weights.getvalue())
        self._rows[episode] = float(self._episodes.play(agent)[0].mean())
        curve = pd.DataFrame(sorted(self._rows.items()), columns=["episode", "reward"])
        write_atomically(self.folder / CURVE, curve.to_csv(index=False).encode())

    def _weights_path(self, episode: int) -> Path:
        return self.folder / f"episode-{episode:04d}.pt"


class EvaluationCallback(Callback):
    """Plays the same episodes every so many steps, keeps the best weights, and stops in time.

    The states of training are not touched: a run with it ends with the same weights as without, if
    it is not stopped. Its own state is in the checkpoints of the training, so that a run that was
    killed goes on to the same evaluations.

    >>> from milp_rl.dqn import DQNAgent, DQNConfig, EvaluationCallback
    >>> from milp_rl.envs import make_bandit
    >>> env, eval_env = (make_bandit("budget", 6, 2, seed=0) for _ in range(2))
    >>> evaluation = EvaluationCallback(eval_env, every=20, episodes=5)
    >>> agent = DQNAgent(env, DQNConfig(pretrain_epochs=1), seed=0)
    >>> _ = agent.learn(40, callbacks=[evaluation])
    >>> len(evaluation.rows)  # after 20 and after 40 steps
    2
    >>> agent.use(evaluation.best_weights())

    Parameters
    ----------
    eval_env
        An environment like that of the training, but another object.
    every
        Steps between evaluations, at least 1: ``agent.num_timesteps`` is a multiple of it.
    episodes
        Episodes in each, at least 1.
    patience
        Evaluations in a row without a new best one after which training is stopped, at least 1;
        ``None``: it never is.
    best
        A file for the weights of highest mean return so far, for
        :meth:`milp_rl.dqn.DQNAgent.use`; the earliest of equals.
    log
        A CSV file for ``rows``.
    seed
        Seed of the first episode; the others' follow it.

    Attributes
    ----------
    rows
        One per evaluation: ``step``, and over the episodes the mean ``return``, the sum of an
        episode's rewards (expected ones where the model is known), its standard ``error`` (NaN for
        one episode), and the mean number of ``steps``.

    Raises
    ------
    ValueError
        If a number is below 1; in training, if ``eval_env`` is the environment that is trained on.
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any],
        *,
        every: int = 1000,
        episodes: int = 10,
        patience: int | None = None,
        best: str | Path | None = None,
        log: str | Path | None = None,
        seed: int = 1_000_000,
    ) -> None:
        for name, number in (("every", every), ("episodes", episodes), ("patience", patience)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.every = every
        self.patience = patience
        self.rows: list[dict[str, float]] = []
        self._episodes = GreedyEpisodes(eval_env, episodes, seed)
        self._best = None if best is None else Path(best)
        self._log = None if log is None else Path(log)
        self._weights: dict[str, Tensor] = {}

    def on_train_begin(self, agent: DQNAgent) -> bool:
        """Refuse the training's own environment; do not go on if patience has ended before."""
        played = self._episodes.parallel is None
        own = _innermost(self._episodes.env)
        if played and any(own is _innermost(env) for env in (agent.env, *agent.lanes.played)):
            raise ValueError(
                "eval_env is the environment that is trained on, whose episodes an evaluation would"
                " break off: make another one"
            )
        self._write()
        return not self._exhausted

    def on_step(self, agent: DQNAgent) -> bool:
        """Evaluate if it is due; stop if nothing has become better for long."""
        if agent.num_timesteps % self.every:
            return True
        rewards, steps = self._episodes.play(agent)
        returns = rewards * steps
        row = {
            "step": agent.num_timesteps,
            "return": float(returns.mean()),
            "error": float(returns.std(ddof=1) / len(returns) ** 0.5) if len(returns) > 1 else NAN,
            "steps": float(steps.mean()),
        }
        if not self.rows or row["return"] > self.rows[self._best_index]["return"]:
            weights = agent.network.state_dict()
            self._weights = {name: value.clone() for name, value in weights.items()}
        self.rows.append(row)
        self._write()
        return not self._exhausted

    def rows_frame(self) -> pd.DataFrame:
        """Return ``rows`` as a table, as the CSV file has them."""
        return pd.DataFrame(self.rows)

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights of highest mean return, for :meth:`milp_rl.dqn.DQNAgent.use`.

        Raises
        ------
        ValueError
            If there was no evaluation yet.
        """
        if not self.rows:
            raise ValueError(
                f"no network has been evaluated yet: the first is after {self.every} steps"
            )
        return self._weights

    @property
    def _best_index(self) -> int:
        return max(range(len(self.rows)), key=lambda i: (self.rows[i]["return"], -i))

    @property
    def _exhausted(self) -> bool:
        if self.patience is None or not self.rows:
            return False
        return len(self.rows) - 1 - self._best_index >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the evaluations so far, and the best weights."""
        return {"rows": self.rows, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from earlier evaluations."""
        self.rows, self._weights = list(state["rows"]), dict(state["weights"])

    def _write(self) -> None:
        if not self.rows:
            return
        if self._best is not None:
            weights = io.BytesIO()
            torch.save(self._weights, weights)
            write_atomically(self._best, weights.getvalue())
        if self._log is not None:
            write_atomically(self._log, self.rows_frame().to_csv(index=False).encode())


def _innermost(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    while isinstance(env, gym.Wrapper):
        env = env.env
    return env


class _Greedy:
    """The policy of remembered argmaxes over the feasible set of each state."""

    def __init__(self, argmax: CachedArgmax, sets: FixedSet) -> None:
        self._argmax = argmax
        self._sets = sets

    def act(self, state: NDArray[np.float32]) -> ActionArray:
        self._sets.at(state)
        return np.asarray(self._argmax.actions(np.asarray(state, dtype=np.float32)[None])[0])
