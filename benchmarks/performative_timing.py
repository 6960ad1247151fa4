"""Learning a performative risk score in both timings: does what is chosen act now, or next?

A DQN with exact argmaxes, 30 episodes of 10 epochs of 300 patients, beside fixed scores and naive
updating, on the same 10 episodes; two seeds. The reward is events prevented per patient less the
cost of the intervention. Writes performative_timing.csv; takes a few minutes of one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

import milp_rl as mr
from milp_rl.baselines.performative import (
    TRUE_RISK,
    FixedScorePolicy,
    NaiveUpdatingPolicy,
    optimal_point,
)
from milp_rl.envs.performative import PerformativeRisk, Population
from milp_rl.formulations.files import write_atomically

HERE = Path(__file__).parent
TIMINGS: tuple[Literal["immediate", "previous"], ...] = ("immediate", "previous")
DQN = mr.DQNConfig(
    architecture="concat",
    hidden=(16, 16),
    episodes=30,
    random_steps=100,
    pretrain_epochs=30,
    discount=0.9,
    epsilon_decay=60.0,
    learning_rate=1e-3,
)


def environment(timing: Literal["immediate", "previous"]) -> PerformativeRisk:
    return PerformativeRisk(Population(300), timing=timing, horizon=10)


def played(env: PerformativeRisk, policy: Any, episodes: int = 10) -> float:
    """Return the mean reward of an epoch."""
    rewards = []
    for seed in range(episodes):
        state, _ = env.reset(seed=10_000 + seed)
        done = False
        while not done:
            state, reward, _, done, _ = env.step(policy.act(state))
            rewards.append(reward)
    return float(np.mean(rewards))


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for timing in TIMINGS:
        env = environment(timing)
        fixed = {
            "best fixed score": FixedScorePolicy(optimal_point(env, size=2000)),
            "true risk": FixedScorePolicy(TRUE_RISK),
            "naive updating": NaiveUpdatingPolicy(env),
        }
        for name, policy in fixed.items():
            rows.append(
                {"timing": timing, "policy": name, "seed": 0, "reward": played(env, policy)}
            )
        for seed in (0, 1):
            agent = mr.DQNAgent(environment(timing), DQN, seed=seed).train()
            row = {"timing": timing, "policy": "DQN, exact argmax", "seed": seed}
            rows.append({**row, "reward": played(env, agent)})
    table = pd.DataFrame(rows).round(5)
    write_atomically(HERE / "performative_timing.csv", table.to_csv(index=False).encode())


if __name__ == "__main__":
    main()
