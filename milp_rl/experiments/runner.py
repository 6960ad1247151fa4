"""Running the cells of an experiment, in parallel processes or on a cluster, resumably.

A finished cell is one file; a learner also writes checkpoints while it trains. A run that was
killed goes on where it was, with the same results.
"""

from __future__ import annotations

import importlib
import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch

from milp_rl.baselines import Policy, argmax_gaps
from milp_rl.baselines.actor_critic import ActorCritic, ActorCriticConfig
from milp_rl.clusters.slurm import SlurmJob
from milp_rl.clusters.tasks import run_tasks
from milp_rl.clusters.workers import Backend, Workers
from milp_rl.dqn import CSVLogger, DQNAgent, DQNConfig, Validation
from milp_rl.envs import KnownModelEnv
from milp_rl.envs.bandits.restless_bandit import RestlessBandit
from milp_rl.evaluation import JointMDP, evaluate
from milp_rl.experiments.config import Cell, ExperimentConfig
from milp_rl.experiments.methods import BASELINES, DRAWN, agent_class, environment
from milp_rl.experiments.played import GREEDY, Played, greedy_losses, way_of
from milp_rl.extras import needs
from milp_rl.formulations.files import locked, read_json, write_atomically, write_json
from milp_rl.qnetwork import QNetwork
from milp_rl.reports.progress import watched

Progress = Callable[[float, float], None]

log = logging.getLogger(__name__)

CELLS, TRAINING, CHECKPOINT, BEST = "cells", "training", "checkpoint.pt", "best.pt"
RESULTS, EPISODES = "results.csv", "episodes.csv"
_START_SEED = 10_000
_GAP_STATES = 500
_LEARNING_COST = 50.0  # roughly, of training and evaluating a learner against a baseline


def run_experiment(
    config: ExperimentConfig,
    output: str | Path,
    *,
    jobs: int = 1,
    backend: Backend = "loky",
    address: str | None = None,
    slurm: SlurmJob | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run the cells that are not finished yet and collect all results.

    Parameters
    ----------
    config
        What to run.
    output
        Folder for everything that is written; with a cluster, one that all its machines share.
        Cells of earlier runs in it count as finished if their settings are the same.
    jobs, backend, address, slurm
        What runs the cells, see :class:`milp_rl.clusters.workers.Workers`.
    progress
        Called every second or so with the work done and in all, in arbitrary units.

    Returns
    -------
    pandas.DataFrame
        One row per cell, in the order of :meth:`ExperimentConfig.cells`; also written as
        ``results.csv`` and ``results.parquet``, with the learning curves in ``curves.csv`` and
        the reward of each episode in ``episodes.csv``, a column for each method.

    Raises
    ------
    ValueError
        If a finished cell was run with other settings, or an argument is wrong.
    ImportError
        If the backend or pyarrow is not installed.
    RuntimeError
        If another run is writing to ``output``, or a cluster does not work.
    Exception
        What a cell raises, with a note of its name.
    """
    workers = Workers(jobs, backend, address, slurm)
    with needs("experiments"):  # before hours of training, not after
        importlib.import_module("pyarrow")
    folder = Path(output)
    cells = config.cells()
    with locked(folder):
        waiting = [cell for cell in cells if _finished(folder, cell) is None]
        log.info("%d of %d cells are finished", len(cells) - len(waiting), len(cells))
        tasks = {
            together[0].name: (together, str(folder.resolve())) for together in _by_network(waiting)
        }
        with _watched(folder, cells, progress):
            run_tasks(_run_cells, tasks, folder, workers)
        return _collect(folder, cells)


def _by_network(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Put the cells that play another's network after it, to be run in one piece with it."""
    found: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.of is not None):
        found.setdefault(cell.network, []).append(cell)
    place = {cell.name: i for i, cell in enumerate(cells)}
    return sorted(found.values(), key=lambda together: place[together[0].name])


def _run_cells(cells: Sequence[Cell], output: str) -> None:
    for cell in cells:
        if _finished(Path(output), cell) is not None:
            continue  # by a worker that ended before the last of them
        try:
            run_cell(cell, output)
        except Exception as error:
            if cell is not cells[0]:  # of which the task has its name
                error.add_note(f"in {cell.name}")
            raise


def run_cell(cell: Cell, output: str | Path) -> dict[str, Any]:
    """Run one cell, on from its checkpoint if there is one, and write its result.

    Parameters
    ----------
    cell
        What to run.
    output
        The experiment's folder.

    Returns
    -------
    dict
        The row of the result.
    """
    folder = Path(output)
    row, rewards = _run(cell, folder)
    content = {"settings": cell.settings, "row": row, "episodes": rewards}
    path = _cell_path(folder, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    (folder / TRAINING / cell.name / CHECKPOINT).unlink(missing_ok=True)
    return row


def _run(cell: Cell, folder: Path) -> tuple[dict[str, Any], list[float]]:
    size = (cell.n_arms, cell.budget, cell.horizon, cell.seed)
    env = environment(cell.domain, *size, method=cell.method)
    counts: dict[str, Any] = {}
    policy: Policy
    if cell.dqn is None:
        policy = BASELINES[cell.method](env, cell.seed)
    elif isinstance(cell.dqn, ActorCriticConfig):
        started = time.perf_counter(), time.process_time()
        policy = ActorCritic(env, cell.dqn, seed=cell.seed).train()
        counts = {
            "training_steps": cell.dqn.steps,
            "training_seconds": time.perf_counter() - started[0],
            "training_cpu_seconds": time.process_time() - started[1],
        }
    elif cell.of is not None:
        policy = _trained(cell, cell.dqn, env, folder)
    else:
        policy, counts = _train(cell, cell.dqn, env, folder / TRAINING / cell.name)
    starts = None
    if isinstance(env, KnownModelEnv):
        starts = env.start_states(np.random.default_rng([_START_SEED, cell.seed]), cell.episodes)
    played = Played(policy)
    before = Counter(played.answered)
    results = evaluate(env, {cell.method: played}, seeds=range(cell.episodes), start_states=starts)
    row = {
        "domain": cell.domain,
        "J": cell.n_arms,
        "B": cell.budget,
        "seed": cell.seed,
        "method": cell.method,
        "reward_mean": float(results["reward"].mean()),
        "reward_se": float(results["reward"].std() / np.sqrt(cell.episodes)),
        "ms_per_decision": float(results["ms_per_decision"].mean()),
        "cpu_ms_per_decision": 1e3 * played.seconds / len(played.states),
        "way": way_of(policy, played.answered - before),
        "episodes": cell.episodes,
        **_exact(cell, env, policy, starts),
        **{name: counts.get(name) for name in _COUNTS},
        **greedy_losses(policy, played, cell.seed),
    }
    return row, [float(reward) for reward in results["reward"]]


_COUNTS = (
    "training_episodes",
    "training_steps",
    "training_seconds",
    "training_cpu_seconds",
    "argmax_seconds",
    "argmax_lookups",
    "argmax_solves",
    "cache_hits",
    "argmax_gap",
)


def _train(
    cell: Cell, config: DQNConfig, env: gym.Env[Any, Any], folder: Path
) -> tuple[Policy, dict[str, Any]]:
    """Train a learner; return the policy of its best network, and what training took."""
    assert cell.algorithm is not None
    agent = agent_class(cell.algorithm)(env, config, seed=cell.seed)
    validation = Validation(
        env, folder, every=cell.validate_every, episodes=cell.validation_episodes
    )
    callbacks = [CSVLogger(folder / "history.csv"), validation]
    resumed, started = (folder / CHECKPOINT).exists(), time.process_time()
    agent.train(callbacks, checkpoint=folder / CHECKPOINT)
    greedy, target = agent.learner.greedy, agent.learner.target_greedy
    lookups, solves = greedy.lookups + target.lookups, greedy.solves + target.solves
    counts = {
        "training_episodes": agent.episode,
        "training_steps": agent.num_timesteps,
        "training_seconds": agent.pretrain_seconds + sum(row["seconds"] for row in agent.history),
        # with its validations; not known of a training in several pieces
        "training_cpu_seconds": None if resumed else time.process_time() - started,
        "argmax_seconds": greedy.seconds + target.seconds,
        "argmax_lookups": lookups,
        "argmax_solves": solves,
        "cache_hits": lookups - solves,
    }
    if isinstance(agent.network, QNetwork) and not agent.space.binary:
        counts["argmax_gap"] = _argmax_gap(agent)
    agent.use(validation.best())
    if isinstance(agent.network, QNetwork):
        agent.network.to_onnx(folder / "network.onnx")
    agent.space.to_json(folder / "space.json")
    weights = io.BytesIO()
    torch.save(agent.network.state_dict(), weights)
    write_atomically(folder / BEST, weights.getvalue())
    return agent, counts


def _trained(cell: Cell, config: DQNConfig, env: gym.Env[Any, Any], folder: Path) -> DQNAgent:
    """Return the policy of a network that another cell has trained."""
    assert cell.algorithm is not None
    path = folder / TRAINING / cell.network / BEST
    if not path.exists():
        raise ValueError(
            f"{path} is missing, which {cell.name} plays: delete"
            f" {folder / CELLS / cell.network}.json to train that network again"
        )
    agent = agent_class(cell.algorithm)(env, config, seed=cell.seed)
    agent.use(path)
    return agent


def _argmax_gap(agent: DQNAgent) -> float:
    """Return the mean gap of the learner's argmaxes to the exact ones after training."""
    batch = agent.learner.replay.sample(np.random.default_rng(_START_SEED), _GAP_STATES)
    states = np.unique(batch.states, axis=0)
    actions = agent.learner.averaged_greedy.actions(states)
    return float(argmax_gaps(agent.network, agent.space, states, actions).mean())


def _exact(
    cell: Cell, env: gym.Env[Any, Any], policy: Policy, starts: Any
) -> dict[str, float | None]:
    """Return the exact value of the policy and the optimum, for small instances of bandits."""
    try:
        if not isinstance(env, RestlessBandit):
            raise ValueError("no joint chain")
        mdp = JointMDP(env)
    except ValueError:  # too large
        return {"exact_reward": None, "exact_optimum": None}
    value = None if cell.method in DRAWN else mdp.value(policy, starts)
    return {"exact_reward": value, "exact_optimum": mdp.optimum(starts)}


def _cell_path(folder: Path, cell: Cell) -> Path:
    return folder / CELLS / f"{cell.name}.json"


def _finished(folder: Path, cell: Cell) -> tuple[dict[str, Any], list[float]] | None:
    """Return the row of a finished cell and the rewards of its episodes, or ``None``.

    Raises
    ------
    ValueError
        If it was run with other settings.
    """
    path = _cell_path(folder, cell)
    if not path.exists():
        return None
    try:
        content = read_json(path)
        row, rewards, settings = content["row"], content["episodes"], content["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to run the cell again") from error
    if settings != cell.settings:
        differ = [key for key, value in cell.settings.items() if settings.get(key) != value]
        raise ValueError(
            f"{path} was run with other settings ({', '.join(differ)} differ); delete it, or give"
            " another output folder"
        )
    return row, rewards


def _collect(folder: Path, cells: Sequence[Cell]) -> pd.DataFrame:
    """Write the results, episodes and learning curves of all cells."""
    done = {cell: one for cell in cells if (one := _finished(folder, cell)) is not None}
    missing = [cell.name for cell in cells if cell not in done]
    if missing:
        raise RuntimeError(
            f"{missing[0]} has run, but its file is not in {folder / CELLS} yet: start the command"
            " again when it is there; what is finished is kept"
        )
    results = pd.DataFrame([row for row, _ in done.values()])
    for name in (*_COUNTS, *GREEDY):  # where no cell has one, as where some have
        results[name] = results[name].astype(float)
    curves = []
    for cell in cells:
        path = folder / TRAINING / cell.name / "validation.csv"
        if path.exists():
            curve = pd.read_csv(path)
            curves.append(
                curve.assign(
                    domain=cell.domain,
                    J=cell.n_arms,
                    B=cell.budget,
                    seed=cell.seed,
                    method=cell.method,
                )
            )
    write_atomically(folder / RESULTS, results.to_csv(index=False).encode())
    write_atomically(folder / EPISODES, _episode_table(done).to_csv(index=False).encode())
    write_atomically(folder / "results.parquet", results.to_parquet(index=False))
    if curves:
        write_atomically(folder / "curves.csv", pd.concat(curves).to_csv(index=False).encode())
    return results


def _episode_table(done: Mapping[Cell, tuple[dict[str, Any], list[float]]]) -> pd.DataFrame:
    """Return a row for each episode of an instance, with the reward of each method."""
    long = pd.DataFrame(
        [
            (cell.domain, cell.n_arms, cell.budget, cell.seed, episode, cell.method, reward)
            for cell, (_, rewards) in done.items()
            for episode, reward in enumerate(rewards)
        ],
        columns=["domain", "J", "B", "seed", "episode", "method", "reward"],
    )
    keys = ["domain", "J", "B", "seed", "episode"]
    wide = long.pivot_table("reward", keys, "method", sort=False).round(6)
    return wide.rename_axis(columns=None).reset_index()


@contextmanager
def _watched(folder: Path, cells: Sequence[Cell], progress: Progress | None) -> Iterator[None]:
    """Report progress while cells run, by what they have written."""
    if progress is None:
        yield
        return
    total = sum(_cost(cell) for cell in cells)

    def report() -> None:
        progress(sum(_cost(cell) * _share(folder, cell) for cell in cells), total)

    with watched(report):
        yield


def _cost(cell: Cell) -> float:
    learns = cell.dqn is not None and cell.of is None
    return cell.n_arms * (_LEARNING_COST if learns else 1.0)


def _share(folder: Path, cell: Cell) -> float:
    """Return how much of a cell is done, 0 to 1."""
    if _cell_path(folder, cell).exists():
        return 1.0
    history = folder / TRAINING / cell.name / "history.csv"
    if not isinstance(cell.dqn, DQNConfig) or not history.exists():
        return 0.0
    return (history.read_bytes().count(b"\n") - 1) / (cell.dqn.episodes + 1)
