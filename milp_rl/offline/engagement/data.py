"""Logged weeks of a programme of service calls: a row for each woman and week."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from milp_rl.baselines.policies import Policy
from milp_rl.envs.engagement import Engagement
from milp_rl.envs.transitions import Transitions
from milp_rl.evaluation.logged import LoggedDecisions
from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.offline.tables import (
    LoggedTable,
    in_order,
    refuse,
    refuse_missing_columns,
    with_numbers,
)

COLUMNS = {
    "beneficiary": "the woman, of one episode of the programme",
    "week": "0, 1, ...",
    "cluster": "number of her cluster",
    "belief": "probability that she listens, by what was seen before",
    "rest": "share of the weeks of rest that are left, 0 to 1",
    "places": "calls that could be made to her, each in its slot",
    "called": "0 or 1",
    "reach": "probability that the call is answered, 0 if there is none",
    "answered": "0 or 1",
    "seen": "0 or 1, whether the week's message showed if she listens",
    "next_belief": "probability that she listens, by the week too",
    "next_rest": "share of the weeks of rest that are left after it",
}
_WITHIN_ONE = ("belief", "rest", "reach", "next_belief", "next_rest")
_BINARY = ("called", "answered", "seen")


@dataclass(frozen=True, eq=False)
class CallLog(LoggedTable):
    """Weeks of women, with the columns of :data:`COLUMNS`, and ``propensity`` if it is known.

    Raises
    ------
    ValueError
        If a column is missing, a value is wrong, or the weeks of a woman have gaps: says where.
    """

    def _checked(self, frame: pd.DataFrame) -> pd.DataFrame:
        refuse_missing_columns(frame, COLUMNS)
        optional = ["propensity"] if "propensity" in frame else []
        frame = with_numbers(frame, [*_WITHIN_ONE, *_BINARY, "cluster", "week", *optional])
        for name in _WITHIN_ONE:
            refuse(frame, name, ~frame[name].between(0, 1), "is not between 0 and 1")
        for name in _BINARY:
            refuse(frame, name, ~frame[name].isin([0, 1]), "is not 0 or 1")
        refuse(frame, "cluster", ~(frame["cluster"] >= 0), "is no number of a cluster")
        if optional:
            known = frame["propensity"]
            refuse(frame, "propensity", ~((known > 0) & (known <= 1)), "is not in (0, 1]")
        return in_order(frame[[*COLUMNS, *optional]], "beneficiary", "week")

    @property
    def clusters(self) -> IntArray:
        """Cluster of each row."""
        return self.frame["cluster"].to_numpy(dtype=np.intp)

    def column(self, name: str) -> FloatArray:
        """Return a column as float64."""
        return self.frame[name].to_numpy(dtype=np.float64)

    def propensities(self) -> FloatArray:
        """Return the probability of what was done: as logged, or else estimated.

        The estimate is a logistic regression on the places that a woman could be called in; one who
        rests, or has no place, is never called.
        """
        if "propensity" in self.frame:
            return self.column("propensity")
        can = (self.column("rest") == 0) & (self.column("places") > 0)
        called = self.column("called") == 1
        chance = np.zeros(len(called))
        if called[can].any() and not called[can].all():
            x = np.log1p(self.column("places")[can])[:, None]
            chance[can] = LogisticRegression().fit(x, called[can]).predict_proba(x)[:, 1]
        elif called[can].any():
            chance[can] = 1.0
        return np.where(called, np.maximum(chance, 1e-6), np.maximum(1.0 - chance, 1e-6))

    def decisions(self, target: ArrayLike) -> LoggedDecisions:
        """Return the weeks as logged decisions, 0 not to call and 1 to call.

        Parameters
        ----------
        target
            Probabilities of both under another policy, shape (rows, 2). The rewards are the
            beliefs after the week.
        """
        contexts = [self.column(name) for name in ("belief", "rest", "places", "cluster")]
        return LoggedDecisions(
            np.column_stack(contexts),
            self.frame["called"].to_numpy(dtype=np.intp),
            self.column("next_belief"),
            self.propensities(),
            np.asarray(target, dtype=np.float64),
            self.frame["beneficiary"].to_numpy(),
            self.frame["week"].to_numpy(),
        )


def play_weeks(
    env: Engagement, policy: Policy, episodes: int, *, seed: int
) -> tuple[CallLog, Transitions]:
    """Play a policy and log the weeks, of each woman and of all together.

    Parameters
    ----------
    env
        The environment.
    policy
        Chooses the calls.
    episodes
        Number of episodes, at least 1.
    seed
        Seed of the weeks.

    Returns
    -------
    tuple
        The weeks of women, and the transitions of the whole environment, for learners of joint
        values (:func:`milp_rl.offline.fit`) and for Minari (:func:`milp_rl.offline.write_minari`).

    Examples
    --------
    >>> from milp_rl.baselines.engagement import RandomCalls
    >>> env = Engagement()
    >>> log, joint = play_weeks(env, RandomCalls(env, seed=0), 1, seed=0)
    >>> len(log.frame), joint.actions.shape[0]
    (800, 40)
    """
    rng = np.random.default_rng(seed)
    rows, joint = [], []
    n, places = env.reach.shape
    for episode in range(episodes):
        state, luck = env.draw_episode(rng)
        for week in range(env.horizon):
            action = policy.act(state)
            following, observed = env.week(state, action, luck[week])
            pairs = action.reshape(n, places)
            belief, rest = state[0::2], state[1::2]
            rows.append(
                pd.DataFrame(
                    {
                        "beneficiary": episode * n + np.arange(n),
                        "week": week,
                        "cluster": env.women.cluster,
                        "belief": belief.astype(np.float64),
                        "rest": rest.astype(np.float64),
                        "places": (env.reach > 0).sum(axis=1),
                        "called": pairs.any(axis=1).astype(int),
                        "reach": (pairs * env.reach).sum(axis=1),
                        "answered": (observed[:, 0] == 1).astype(int),
                        "seen": observed[:, 1],
                        "next_belief": following[0::2].astype(np.float64),
                        "next_rest": following[1::2].astype(np.float64),
                    }
                )
            )
            reward = float(following[0::2].sum(dtype=np.float64))
            joint.append((state, action, reward, following))
            state = following
    columns = [np.array(column) for column in zip(*joint, strict=True)]
    transitions = Transitions(
        columns[0],
        columns[1],
        columns[2],
        columns[3],
        interventions=env.interventions,
        variables=env.variables,
        feasible=env.action_space_block,
    )
    return CallLog(pd.concat(rows, ignore_index=True)), transitions
