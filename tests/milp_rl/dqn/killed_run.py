"""Trains a small agent with checkpoints and kills itself: python killed_run.py FILE WHEN N."""

import os
import signal
import sys

from milp_rl.dqn import Callback, DQNAgent, DQNConfig
from milp_rl.envs import CapacityBandit, CapacityInstance

CONFIG = DQNConfig(
    encoder=(4,),
    head=(6,),
    episodes=6,
    batch_size=8,
    updates_per_step=2,
    sync_every=5,
    epsilon_decay=15.0,
    buffer_size=60,
    pretrain_epochs=5,
    pretrain_states=10,
    pretrain_actions=2,
    pretrain_replay=40,
    pretrain_batch_size=64,
    solver="enumeration",
)


def agent(config: DQNConfig = CONFIG, seed: int = 3) -> DQNAgent:
    """Return the untrained agent, on a bandit of 4 arms and 7 steps."""
    env = CapacityBandit(CapacityInstance.generate(4, 2, horizon=7, seed=1))
    return DQNAgent(env, config, seed=seed)


class Kill(Callback):
    """Ends the process at once, as power loss would."""

    def __init__(self, when: str, count: int) -> None:
        self.when, self.count = when, count

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        if self.when == "epoch" and agent.epoch == self.count:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step(self, agent: DQNAgent) -> None:
        if self.when == "step" and agent.step == self.count:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    agent().train([Kill(sys.argv[2], int(sys.argv[3]))], checkpoint=sys.argv[1], checkpoint_every=4)
