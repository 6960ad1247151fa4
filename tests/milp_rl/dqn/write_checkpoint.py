"""Writes a checkpoint of this version for tests of later ones: python write_checkpoint.py NAME.

Beside it, as JSON, what its agent thinks of some states. Files of earlier versions are kept as they
are, in ``data``.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import killed_run
import numpy as np
import torch

from milp_rl.dqn import EvaluationCallback


def write(path: Path) -> None:
    """Train a little, with a callback that has a state, and write both files."""
    small = replace(killed_run.CONFIG, buffer_size=20, cache_size=20, pretrain_replay=10, critics=2)
    agent = killed_run.agent(small)
    evaluation = EvaluationCallback(killed_run.agent().env, every=10, episodes=2)
    agent.learn(31, callbacks=[evaluation], checkpoint=path)
    states = np.random.default_rng(0).integers(0, 4, (12, 4))
    actions = agent.space.sample(np.random.default_rng(1), 12)
    with torch.no_grad():
        values = agent.network.q(torch.tensor(states).float(), torch.tensor(actions).float())
    known = {
        "states": states.tolist(),
        "actions": actions.tolist(),
        "values": values.tolist(),
        "best": [agent.act(state).tolist() for state in states],
    }
    path.with_suffix(".json").write_text(json.dumps(known))


if __name__ == "__main__":
    write(Path(__file__).with_name("data") / f"{sys.argv[1]}.pt")
