"""Train the Q-networks of the benchmarks anew (about 20 minutes).

One for each domain and size, hidden 16-32, and with wider layers for 20 arms. Where exact argmaxes
take long, and for the wider networks, the learner builds its actions greedily: what is wanted here
is only a network with the structure that training gives.
"""

from __future__ import annotations

import torch
from problems import DOMAINS, NETWORKS, SIZES
from tqdm import tqdm

import milp_rl as mr
from milp_rl.envs import make_bandit


def main() -> None:
    torch.set_num_threads(1)
    sizes = [(d, n, b) for d in DOMAINS for n, b in SIZES if (d, n) != ("path", 100)]
    jobs = [(d, n, b, (16, 32)) for d, n, b in sizes]
    jobs += [(d, 20, 5, hidden) for d in DOMAINS for hidden in ((64, 64), (128, 128))]
    for domain, n_arms, budget, hidden in tqdm(jobs):
        exact = hidden == (16, 32) and (n_arms == 20 or (n_arms == 40 and domain != "path"))
        config = mr.DQNConfig(
            hidden=hidden, episodes=15 if exact else 20, argmax="exact" if exact else "greedy"
        )
        agent = mr.DQNAgent(make_bandit(domain, n_arms, budget, seed=0), config, seed=0)
        agent.train()
        widths = "-".join(map(str, hidden))
        agent.network.to_onnx(NETWORKS / f"{domain}-J{n_arms}-{widths}.onnx")


if __name__ == "__main__":
    main()
