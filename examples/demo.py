"""SEQUOIA on a restless bandit with capacity-limited workers, from training to a stored model.

Ten arms, three workers, twenty steps. A Q-network is trained with exact argmaxes by HiGHS and
compared with simpler policies on the same 50 episodes; then it is stored with its feasible set
and an optimal action is solved from the two files alone. Takes one to three minutes.

    python examples/demo.py [--output demo] [--instance-seed 0] [--seed 0]
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np

import milp_rl as mr
from milp_rl.baselines import IterativeDQNPolicy, MyopicPolicy, NullPolicy, Policy, RandomPolicy
from milp_rl.dqn import ProgressBar
from milp_rl.envs import CapacityBandit, CapacityInstance
from milp_rl.evaluation import evaluate, plot_rewards, summarize
from milp_rl.formulations.files import write_atomically


def main() -> None:
    """Train, evaluate, store, and solve from what was stored."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the results")
    parser.add_argument("--instance-seed", type=int, default=0, help="which bandit")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--episodes", type=int, default=100, help="of the training")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    instance = CapacityInstance.generate(10, 3, horizon=20, seed=arguments.instance_seed)
    env = CapacityBandit(instance)
    space = env.action_space_block()
    print(f"10 arms of cost {instance.costs.astype(int).tolist()}, 3 workers of capacity")
    print(f"{instance.capacities.astype(int).tolist()}: {space.count()} feasible actions")

    started = time.perf_counter()
    numbers = (arguments.instance_seed, arguments.seed, arguments.episodes)
    checkpoint = output / f"agent-{'-'.join(map(str, numbers))}.pt"
    trained_before = checkpoint.exists()
    agent = mr.DQNAgent(env, mr.DQNConfig(episodes=arguments.episodes), seed=arguments.seed)
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

    policies: dict[str, Policy] = {
        "null": NullPolicy(space),
        "random": RandomPolicy(space, seed=arguments.seed),
        "myopic": MyopicPolicy(env),
        "iterative DQN": IterativeDQNPolicy(agent.network, space),
        "SEQUOIA": agent,
    }
    starts = env.start_states(np.random.default_rng(10_000), 50)
    results = evaluate(env, policies, seeds=range(50), start_states=starts)
    summary = summarize(results)
    print("\nexpected reward per step, same 50 episodes for all:")
    print(summary.to_string(index=False, float_format=lambda value: f"{value:.3f}"))

    png = io.BytesIO()
    figure = plot_rewards(summary, "Capacity bandit, J = 10, B = 3, H = 20")
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
    print(f"act on arms {np.flatnonzero(result.action).tolist()}, Q = {result.value:.4f},")
    print(f"bound {result.bound:.4f}, {result.status}, {1e3 * result.seconds:.1f} ms")


if __name__ == "__main__":
    main()
