"""SEQUOIA on a restless bandit with capacity-limited workers, and what its exact argmax buys.

Twelve patients, three workers of six hours, twenty weeks. The three patients who gain most take a
whole shift, the others two or three hours: the best set is not made of the best patients. A
Q-network is trained with exact argmaxes and compared with simpler policies on the same 50 episodes,
among them greedy building on that very network ("iterative DQN", as published). Then the network is
stored with its feasible set, and an optimal action is solved from the two files alone. Takes less
than three minutes; the training is short, as it suffices for the difference.

    python examples/demo.py [--output demo] [--instance-seed 0] [--seed 0]
"""

import argparse
import io
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import milp_rl as mr
from milp_rl.baselines import IterativeDQNPolicy, MyopicPolicy, NullPolicy, Policy, RandomPolicy
from milp_rl.dqn import ProgressBar
from milp_rl.envs import CapacityBandit, CapacityInstance
from milp_rl.evaluation import evaluate, plot_rewards, summarize
from milp_rl.experiments.paired import paired
from milp_rl.experiments.played import Played, greedy_losses
from milp_rl.formulations.files import write_atomically


def main() -> None:
    """Train, evaluate, store, and solve from what was stored."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--instance-seed", type=int, default=0, help="which bandit")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--episodes", type=int, default=4, help="of the training")
    parser.add_argument("--epochs", type=int, default=3, help="of the pretraining before it")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    drawn = CapacityInstance.generate(12, 3, horizon=20, seed=arguments.instance_seed)
    hours = np.array([6, 6, 6, *[2, 3, 2] * 3], dtype=float)  # the first three gain most
    instance = replace(drawn, costs=hours, capacities=np.full(3, 6.0))
    env = CapacityBandit(instance)
    space = env.action_space_block()
    print(f"12 patients of {hours.astype(int).tolist()} hours, 3 workers of 6 hours:")
    print(f"{space.count()} feasible actions")

    started = time.perf_counter()
    config = mr.DQNConfig(
        episodes=arguments.episodes,
        learning_rate=1e-3,
        pretrain_epochs=arguments.epochs,
        pretrain_batch_size=256,
        pretrain_learning_rate=3e-3,
    )
    numbers = (arguments.instance_seed, arguments.seed, arguments.epochs, arguments.episodes)
    checkpoint = output / f"agent-{'-'.join(map(str, numbers))}.pt"
    trained_before = checkpoint.exists()
    agent = mr.DQNAgent(env, config, seed=arguments.seed)
    agent.train([ProgressBar()], checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    if trained_before:
        print(f"went on with the training of {checkpoint}, in {seconds:.0f} s")
    elif agent.history:
        last = agent.history[-1]
        reused = 1 - last["target_solves"] / last["target_lookups"]
        print(
            f"trained in {seconds:.0f} s, {last['argmax_seconds']:.0f} s of it in"
            f" {last['greedy_solves'] + last['target_solves']} argmaxes"
            f" ({reused:.0%} of those in targets were known already)"
        )

    exact, built = "SEQUOIA", "iterative DQN"
    played = Played(agent)
    policies: dict[str, Policy] = {
        "null": NullPolicy(space),
        "random": RandomPolicy(space, seed=arguments.seed),
        "myopic": MyopicPolicy(env),
        built: IterativeDQNPolicy(agent.network, space),
        exact: played,
    }
    starts = env.start_states(np.random.default_rng(10_000), 50)
    results = evaluate(env, policies, seeds=range(50), start_states=starts)
    summary = summarize(results)
    print("\nexpected reward per step, same 50 episodes for all:")
    print(summary.to_string(index=False, float_format=lambda value: f"{value:.3f}"))

    rows = results.pivot_table("reward", ["episode", "seed"], "policy").reset_index()
    gain = paired(rows.assign(seed=0), exact, built)
    losses = greedy_losses(agent, played, arguments.seed)
    assert gain is not None
    print("\nwhat exactness buys, on the same trained network:")
    print(f"{exact} - {built}: {gain.mean:+.3f} a step, 95% interval ± {gain.over_episodes:.3f}")
    print(
        f"greedy building is not optimal in {losses['greedy_lower']:.0%} of"
        f" {losses['states_visited']:.0f} visited states; it loses {losses['greedy_loss']:.1%} of"
        " what the optimum is above random actions"
    )

    png = io.BytesIO()
    figure = plot_rewards(summary, "Capacity bandit, J = 12, B = 3, H = 20")
    figure.savefig(png, format="png", dpi=150)
    write_atomically(output / "results.csv", summary.to_csv(index=False).encode())
    write_atomically(output / "episodes.csv", results.to_csv(index=False).encode())
    write_atomically(output / "rewards.png", png.getvalue())
    agent.network.to_onnx(output / "q.onnx")
    space.to_json(output / "space.json")
    instance.to_json(output / "instance.json")
    written = ("results.csv", "episodes.csv", "rewards.png", "q.onnx", "space.json")
    print("\nwrote", ", ".join(str(output / name) for name in written))

    stored_space = mr.ActionSpace.from_json(output / "space.json")
    result = mr.ArgmaxSolver(output / "q.onnx", stored_space).solve(starts[0])
    assert result.action is not None
    print(f"\nfrom these files, in state {starts[0].astype(int).tolist()}:")
    print(f"act on patients {np.flatnonzero(result.action).tolist()}, Q = {result.value:.4f},")
    print(f"bound {result.bound:.4f}, {result.status}, {1e3 * result.seconds:.1f} ms")


if __name__ == "__main__":
    main()
