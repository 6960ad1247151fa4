"""``milp-rl engagement simulate``: policies of service calls on the same weeks, on one page."""

from __future__ import annotations

import gzip
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from milp_rl.baselines.engagement import (
    DISCOUNT,
    RandomCalls,
    RoundRobin,
    WhittleTopK,
    myopic_calls,
    whittle_calls,
)
from milp_rl.baselines.policies import NullPolicy, Policy
from milp_rl.dqn import DQNAgent, DQNConfig, Validation
from milp_rl.envs.engagement import Engagement, draw_engagement
from milp_rl.formulations.files import check_settings, locked, write_atomically, write_json
from milp_rl.offline.engagement.data import CallLog, play_weeks
from milp_rl.offline.engagement.fitted_q import fit_call_values, learnt_calls
from milp_rl.reports.document import (
    Section,
    new_figure,
    save_figure,
    to_html,
    to_markdown,
)

_COLORS = {
    "no calls": "#9d9d9d",
    "random": "#c9a227",
    "round robin": "#b07aa1",
    "Whittle, top-k": "#e07b39",
    "Whittle, matched": "#1f5a91",
    "myopic": "#3f9b6f",
    "learnt from logs": "#c2565b",
    "SEQUOIA": "#222222",
}
_LOGGED_EPISODES = 20

log = logging.getLogger(__name__)


def policies_of(
    env: Engagement,
    *,
    logged: CallLog | None = None,
    sequoia: int = 0,
    sequoia_config: DQNConfig | None = None,
    seed: int = 0,
) -> dict[str, Policy]:
    """Return the policies that are compared, by name, trained where they learn.

    Parameters
    ----------
    env
        The environment.
    logged
        Weeks that values are learnt from; by default 20 episodes of random calls are played.
    sequoia
        Episodes that SEQUOIA, the DQN with exact argmax, is trained; 0: it is left out.
    sequoia_config
        Its parameters; by default those of ``DQNConfig`` with the indices' discount.
    seed
        Seed of whatever is drawn.
    """
    logged = _random_weeks(env, seed) if logged is None else logged
    budget = env.programme.budget
    calls = len(env.places) if budget is None else min(budget, len(env.places))
    values = fit_call_values(
        logged, min(calls / len(env.women), 0.99), n_clusters=env.programme.n_clusters
    )
    found: dict[str, Policy] = {
        "no calls": NullPolicy(env.action_space_block()),
        "random": RandomCalls(env, seed=seed),
        "round robin": RoundRobin(env),
        "Whittle, top-k": WhittleTopK(env),
        "Whittle, matched": whittle_calls(env),
        "myopic": myopic_calls(env),
        "learnt from logs": learnt_calls(env, values),
    }
    if sequoia:
        config = sequoia_config or config_of_calls(sequoia)
        found["SEQUOIA"] = train_sequoia(env, config, seed=seed)
    return found


def config_of_calls(episodes: int) -> DQNConfig:
    """Return how SEQUOIA is trained on calls: the gap of its targets follows their error."""
    return DQNConfig(
        episodes=episodes,
        discount=DISCOUNT,
        learning_rate=1e-3,
        average_decay=0.0,
        dynamic_tolerance=0.1,
        dynamic_tolerance_decay=1.0,
    )


def train_sequoia(env: Engagement, config: DQNConfig, *, seed: int = 0) -> DQNAgent:
    """Train a DQN with exact argmax; return it with the best of its networks.

    Parameters
    ----------
    env
        The environment.
    config
        Parameters.
    seed
        Seed of everything.

    Returns
    -------
    milp_rl.dqn.DQNAgent
        With the weights that earned most in ten episodes of the model, played before the first
        episode and after every fifth.
    """
    agent = DQNAgent(env, config, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        validation = Validation(env, folder, every=5, episodes=10)
        agent.train([validation])
        agent.use(validation.best())
    return agent


def _random_weeks(env: Engagement, seed: int) -> CallLog:
    return play_weeks(env, RandomCalls(env, seed=seed), _LOGGED_EPISODES, seed=seed + 1)[0]


def play(
    env: Engagement, policies: Mapping[str, Policy], episodes: int, *, seed: int = 0
) -> pd.DataFrame:
    """Play the same episodes with every policy, the same luck for all.

    Parameters
    ----------
    env
        The environment.
    policies
        Policies by name.
    episodes
        Number of episodes, at least 1.
    seed
        Seed of the episodes.

    Returns
    -------
    pandas.DataFrame
        A row for each policy, episode and week: ``listening``, the expected share of the women who
        listen after it, given what was seen, ``calls`` and ``ms`` of the decision.

    Raises
    ------
    ValueError
        If a policy makes a call that cannot be made.
    """
    rng = np.random.default_rng(seed)
    drawn = [env.draw_episode(rng) for _ in range(episodes)]
    rows = []
    for name, policy in policies.items():
        for episode, (state, luck) in enumerate(drawn):
            for week in range(env.horizon):
                started = time.perf_counter()
                action = policy.act(state)
                ms = 1e3 * (time.perf_counter() - started)
                if wrong := env.action_space_block(state).violations(action):
                    raise ValueError(f"policy {name!r}, week {week}: {'; '.join(wrong)}")
                state, reward = env.transition(state, action, luck[week])
                share = float(reward) / len(env.women)
                rows.append((name, episode, week + 1, share, int(action.sum()), ms))
    return pd.DataFrame(rows, columns=["policy", "episode", "week", "listening", "calls", "ms"])


def summarise(weeks: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each policy.

    Parameters
    ----------
    weeks
        From :func:`play`, with a column ``seed`` of the programme.

    Returns
    -------
    pandas.DataFrame
        ``listening``, the mean over weeks, episodes and seeds, and its standard error over
        episodes; ``gain``, over no calls in the same episodes, with its standard error; the share
        who listen in the last week; calls per week; ms of a decision.
    """
    episodes = weeks.groupby(["policy", "seed", "episode"], sort=False)["listening"].mean()
    none = episodes.xs("no calls")
    last = weeks[weeks["week"] == weeks["week"].max()].groupby("policy")["listening"].mean()
    rows = []
    for name, own in episodes.groupby("policy", sort=False):
        values = own.droplevel("policy")
        gain = values - none
        rows.append(
            {
                "policy": name,
                "listening": values.mean(),
                "standard error": values.sem(),
                "gain": gain.mean(),
                "its standard error": gain.sem(),
                "last week": last[name],
                "calls per week": weeks.loc[weeks["policy"] == name, "calls"].mean(),
                "ms": weeks.loc[weeks["policy"] == name, "ms"].mean(),
            }
        )
    return pd.DataFrame(rows)


def write_simulation(
    folder: str | Path,
    *,
    n: int = 20,
    seeds: int = 3,
    episodes: int = 20,
    sequoia: int = 20,
    logged: CallLog | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Compare all policies on programmes that are drawn, and write one HTML page.

    A run that was stopped goes on with the programmes that are not finished.

    Parameters
    ----------
    folder
        For ``report.html``, ``report.md``, ``results.csv``, ``weeks.csv``, ``logged.csv.gz`` (the
        weeks that values were learnt from, of the last programme), ``programme-SEED.csv.gz`` (what
        :func:`play` returns of each) and the charts.
    n
        Women in each programme.
    seeds
        Number of programmes, drawn with the seeds 0, 1, ...
    episodes
        Episodes of 40 weeks of each.
    sequoia
        Episodes that SEQUOIA is trained; 0: it is left out.
    logged
        Weeks to learn from instead of simulated ones; their clusters must be the programmes'.
    progress
        Told what is being done.

    Returns
    -------
    pathlib.Path
        The HTML file.

    Raises
    ------
    ValueError
        If a number is out of range, or the folder has the report of other weeks or settings.
    RuntimeError
        If another run is writing to the folder.
    """
    for name, value, least in (
        ("n", n, 2),
        ("seeds", seeds, 1),
        ("episodes", episodes, 2),
        ("sequoia", sequoia, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    settings = {
        "n": n,
        "seeds": seeds,
        "episodes": episodes,
        "sequoia": sequoia,
        "logged": "simulated" if logged is None else logged.digest(),
    }
    out, say = Path(folder), progress or log.info
    with locked(out):
        check_settings(out / "settings.json", settings)
        write_json(out / "settings.json", settings)
        parts = []
        for seed in range(seeds):
            path = out / f"programme-{seed}.csv.gz"
            if not path.exists():
                say(f"programme {seed}")
                env = Engagement(*draw_engagement(n, seed=seed))
                own = _random_weeks(env, seed) if logged is None else logged
                if seed == seeds - 1:
                    own.write(out / "logged.csv.gz")
                found = policies_of(env, logged=own, sequoia=sequoia, seed=seed)
                rows = play(env, found, episodes, seed=seed).to_csv(index=False)
                write_atomically(path, gzip.compress(rows.encode(), mtime=0))
            parts.append(pd.read_csv(path).assign(seed=seed))
        weeks = pd.concat(parts, ignore_index=True)
        return _page(out, weeks, settings)


def weeks_chart(weeks: pd.DataFrame) -> Figure:
    """Draw the share who listen, week by week, of each policy."""
    figure = new_figure(9.2, 4.8)
    axes = figure.add_subplot()
    for name, own in weeks.groupby("policy", sort=False):
        mean = 100 * own.groupby("week")["listening"].mean()
        axes.plot(
            [0, *mean.index],
            [100.0, *mean],
            color=_COLORS.get(str(name), "#444444"),
            label=str(name),
            linestyle="--" if name == "no calls" else "-",
            linewidth=2,
        )
    axes.set(xlabel="week", ylabel="women who listen (expected), %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def gains_chart(table: pd.DataFrame) -> Figure:
    """Draw what each policy gains over no calls, with two standard errors."""
    rows = table[table["policy"] != "no calls"]
    figure = new_figure(7.6, 1.2 + 0.42 * len(rows))
    axes = figure.add_subplot()
    y = np.arange(len(rows))
    axes.barh(
        y,
        100 * rows["gain"],
        xerr=200 * rows["its standard error"],
        color=[_COLORS.get(name, "#444444") for name in rows["policy"]],
        capsize=3,
    )
    axes.set_yticks(y, list(rows["policy"]))
    axes.invert_yaxis()
    axes.set_xlabel("gain over no calls, percentage points of the women")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _page(out: Path, weeks: pd.DataFrame, settings: dict[str, Any]) -> Path:
    table = summarise(weeks)
    write_atomically(out / "results.csv", table.to_csv(index=False).encode())
    by_week = weeks.groupby(["policy", "week"], sort=False)["listening"].mean().reset_index()
    write_atomically(out / "weeks.csv", by_week.to_csv(index=False).encode())
    save_figure(weeks_chart(weeks), out / "listening.png")
    save_figure(gains_chart(table), out / "gains.png")
    listening = dict(zip(table["policy"], table["last week"].astype(float), strict=True))
    last = 100 * (1 - listening["no calls"])
    text = (
        f"{settings['seeds']} programmes of {settings['n']} women, {settings['episodes']} episodes"
        " of 40 weeks each, with the same luck for all policies. Without calls"
        f" {last:.0f}% no longer listen in the last week."
    )
    shown = table.copy()
    for name in ("listening", "standard error", "gain", "its standard error", "last week"):
        shown[name] = [f"{100 * value:.2f}%" for value in table[name]]
    for name in ("calls per week", "ms"):
        shown[name] = [f"{value:.2f}" for value in table[name]]
    sections = [
        Section("Listening by week", text, None, ("listening.png",)),
        Section("Policies", "", shown.set_index("policy"), ("gains.png",)),
    ]
    title = "Service calls to mothers"
    write_atomically(out / "report.md", to_markdown(title, sections).encode())
    path = out / "report.html"
    write_atomically(path, to_html(title, sections, out).encode())
    return path
