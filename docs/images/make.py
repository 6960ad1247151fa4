"""Draw the pictures of the documentation from objects of the library.

    python docs/images/make.py [--output docs/images] [--format svg]

Every picture shows what the code on its page computes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.patches import Patch, Rectangle

import milp_rl as mr
from milp_rl.envs import make_bandit
from milp_rl.envs.care_management import care_actions
from milp_rl.formulations.bounds import BoundPropagator, LinearMax, Strength, box_maximum
from milp_rl.formulations.networks.action_value import NetworkValue

ROOT = Path(__file__).parents[2]

BLUE, ORANGE, GREEN, GREY, LIGHT = "#2b6cb0", "#c05621", "#2f855a", "#52606d", "#d9dee4"
FILLS = ("#8fb8de", "#f0b27a", "#9fd0a8", "#c9b3e0", "#e6d38a", "#e6a1a1")

mpl.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
        "svg.hashsalt": "milp-rl",
        "svg.fonttype": "path",
    }
)


def budget() -> plt.Figure:
    """Draw all 0/1 vectors of three actions, and the best three of eight."""
    space = mr.BudgetTopK(n_actions=3, k=2)
    figure = plt.figure(figsize=(7.2, 3.4))
    axes = figure.add_subplot(1, 2, 1, projection="3d")
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    for u in corners:
        for v in corners:
            if np.abs(u - v).sum() == 1:
                axes.plot(*zip(u, v, strict=True), color=LIGHT, lw=1)
    feasible = np.array([not space.violations(c) for c in corners])
    axes.scatter(*corners[feasible].T, s=60, color=BLUE, depthshade=False)
    axes.scatter(*corners[~feasible].T, s=70, color=ORANGE, marker="x", depthshade=False, lw=2)
    for corner in corners:
        text = "".join(map(str, corner))
        axes.text(*(corner + np.array([0, 0, 0.1])), text, ha="center", fontsize=9)
    axes.view_init(elev=16, azim=-68)
    axes.set_box_aspect((1, 1, 1), zoom=1.15)
    axes.set_axis_off()
    axes.set_title(f"At most 2 of 3: {feasible.sum()} of 8 are feasible", fontsize=10)

    coefficients = np.array([0.9, -0.4, 0.6, 0.1, 1.2, -0.2, 0.3, 0.7])
    space = mr.BudgetTopK(n_actions=8, k=3)
    best = space.maximizers(coefficients[None])[0]
    value = space.linear_max(coefficients[None])[0]
    axes = figure.add_subplot(1, 2, 2)
    axes.bar(range(8), coefficients, color=[BLUE if x else LIGHT for x in best])
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xticks(range(8))
    axes.set_xlabel("action")
    axes.set_ylabel("coefficient")
    axes.set_title(f"linear_max with k = 3: {value:.1f}", fontsize=10)
    figure.tight_layout()
    return figure


def capacity() -> plt.Figure:
    """Draw the best action of the page as it is assigned to the workers."""
    costs, capacities = [4, 4, 3, 3, 2, 2, 5, 6], [7, 6, 4]
    space = mr.Capacity(costs, capacities)
    gains = np.array([3.0, 2.8, 2.6, 1.0, 1.5, 1.4, 3.4, 4.4])
    action = space.maximizers(gains[None])[0].astype(int)
    assigned = space.assignment(action)
    figure, axes = plt.subplots(figsize=(7.2, 3.0))
    for worker, arms in assigned.items():
        left = 0
        for arm in arms:
            axes.barh(worker, costs[arm], left=left, color=FILLS[arm % 6], edgecolor="white")
            axes.text(
                left + costs[arm] / 2,
                worker,
                f"arm {arm}\ncost {costs[arm]}",
                ha="center",
                va="center",
                fontsize=9,
            )
            left += costs[arm]
        axes.plot([capacities[worker]] * 2, [worker - 0.46, worker + 0.46], color=GREY, lw=2)
        axes.text(capacities[worker] + 0.1, worker, f"capacity {capacities[worker]}", va="center")
    axes.set_yticks(range(3), [f"worker {w}" for w in range(3)])
    axes.invert_yaxis()
    axes.set_xlim(0, 8.4)
    axes.set_xlabel("cost")
    left_out = ", ".join(f"{i} (cost {costs[i]})" for i in np.flatnonzero(action == 0))
    axes.set_title(
        f"The best action for the gains on the page leaves out arms {left_out}", fontsize=10
    )
    figure.tight_layout()
    return figure


def scheduling() -> plt.Figure:
    """Draw who is available when, and a schedule."""
    workers = np.array([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0], [1, 0, 0, 1, 1]])
    arms = np.array(
        [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0]]
    )
    space = mr.Scheduling(workers, arms, needs=2, budget=4)
    action = space.maximizers(np.array([[1.0, 2.0, 3.0, 2.5, 1.5]]))[0].astype(int)
    plan = space.schedule(action)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.2))
    for j, row in enumerate(arms):
        for t, free in enumerate(row):
            color = FILLS[j] if free else "#f4f5f7"
            left.add_patch(Rectangle((t, j), 0.94, 0.9, color=color))
        if not action[j]:
            left.text(5.1, j + 0.45, "not chosen", va="center", fontsize=9, color=GREY)
    left.set_yticks(np.arange(5) + 0.45, [f"arm {j}" for j in range(5)])
    left.set_title("Slots in which each arm is available", fontsize=10)
    for w, row in enumerate(workers):
        for t, free in enumerate(row):
            right.add_patch(
                Rectangle((t, w), 0.94, 0.9, facecolor="white" if free else LIGHT, edgecolor=LIGHT)
            )
    for arm, worker, slot in plan:
        right.add_patch(Rectangle((slot, worker), 0.94, 0.9, color=FILLS[arm]))
        right.text(slot + 0.47, worker + 0.45, f"arm {arm}", ha="center", va="center", fontsize=9)
    right.set_yticks(np.arange(3) + 0.45, [f"worker {w}" for w in range(3)])
    right.set_title("A schedule: each chosen arm needs two", fontsize=10)
    for axes, rows, width in ((left, 5, 6.4), (right, 3, 5.0)):
        axes.set_xlim(0, width)
        axes.set_ylim(rows, 0)
        axes.set_xticks(np.arange(5) + 0.47, [f"{t}" for t in range(5)])
        axes.set_xlabel("slot")
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    right.legend(
        handles=[Patch(facecolor=LIGHT, label="away"), Patch(fc="white", ec=LIGHT, label="idle")],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncol=2,
        frameon=False,
    )
    figure.tight_layout()
    return figure


_LABELS = {  # where the layout puts two stations close to each other
    "Green Park": (0.03, 0.02, "left", "bottom"),
    "Victoria": (-0.03, 0.02, "right", "center"),
    "Westminster": (-0.02, 0.025, "right", "bottom"),
    "Embankment": (-0.01, 0.025, "right", "bottom"),
    "Waterloo": (0.03, -0.01, "left", "center"),
    "Charing Cross": (0.0, -0.025, "center", "top"),
    "Leicester Square": (0.03, -0.02, "left", "top"),
    "Piccadilly Circus": (0.015, -0.02, "left", "top"),
    "Oxford Circus": (0.03, 0.0, "left", "center"),
}


def routing() -> plt.Figure:
    """Draw a route on the central London Underground."""
    graph = mr.london_underground()
    space = mr.Routing(graph, depot="Green Park", max_length=10, budget=6)
    wanted = ["Victoria", "Westminster", "Waterloo", "Leicester Square", "Oxford Circus"]
    action = np.array([node in wanted for node in space.nodes], dtype=int)
    route = space.shortest_route(action)
    assert route is not None
    position = nx.kamada_kawai_layout(graph)
    figure, axes = plt.subplots(figsize=(8.4, 7.2))
    options: dict[str, Any] = {"ax": axes}
    reachable = space.linear_max(np.eye(space.n_actions)) > 0
    nx.draw_networkx_edges(graph, position, edge_color=LIGHT, width=1.5, **options)
    for inside, color in ((False, "#eceff2"), (True, "#aab4c0")):
        nodes = [v for v, r in zip(space.nodes, reachable, strict=True) if r == inside]
        nx.draw_networkx_nodes(
            graph, position, nodelist=nodes, node_size=35, node_color=color, **options
        )
    steps = list(pairwise(route))
    nx.draw_networkx_edges(graph, position, edgelist=steps, edge_color=BLUE, width=3.0, **options)
    passed = [v for v in dict.fromkeys(route) if v not in wanted and v != space.depot]
    for nodes, color, size in (
        (passed, BLUE, 45),
        (wanted, ORANGE, 110),
        ([space.depot], GREEN, 150),
    ):
        nx.draw_networkx_nodes(
            graph, position, nodelist=nodes, node_color=color, node_size=size, **options
        )
    for node in dict.fromkeys(route):
        dx, dy, across, along = _LABELS.get(node, (0.02, 0.0, "left", "center"))
        axes.text(
            position[node][0] + dx,
            position[node][1] + dy,
            node,
            ha=across,
            va=along,
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
    handles = [
        plt.Line2D([], [], marker="o", ls="", color=color, label=label)
        for color, label in (
            (GREEN, "depot"),
            (ORANGE, "chosen"),
            (BLUE, "passed"),
            ("#aab4c0", "could be visited"),
            ("#eceff2", "too far"),
        )
    ]
    axes.legend(handles=handles, loc="upper left", frameon=False)
    axes.set_title(
        f"{len(wanted)} chosen stations on a closed walk of {len(steps)} edges"
        f" (at most {space.max_length})",
        fontsize=11,
    )
    axes.set_axis_off()
    figure.tight_layout()
    return figure


def factored() -> plt.Figure:
    """Draw the valid combinations of care management, a table for each urgency."""
    actions = care_actions()
    modality, provider, goal, urgency = actions.factors.values()
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 4.6), sharey=True)
    for u, panel in enumerate(axes):
        table = actions.valid[:, :, :, u].transpose(1, 2, 0).reshape(len(provider) * len(goal), -1)
        panel.imshow(table, cmap=mpl.colors.ListedColormap(["#f1f3f5", BLUE]), aspect="auto")
        panel.set_xticks(range(len(modality)), modality, rotation=45, ha="right")
        panel.set_title(f"{urgency[u]}: {table.sum()} valid", fontsize=10)
        panel.set_xticks(np.arange(-0.5, len(modality)), minor=True)
        panel.set_yticks(np.arange(-0.5, len(table)), minor=True)
        panel.grid(which="minor", color="white", lw=1)
        panel.tick_params(which="both", length=0)
        for line in range(len(goal), len(table), len(goal)):
            panel.axhline(line - 0.5, color=GREY, lw=1.2)
    axes[0].set_yticks(
        range(len(provider) * len(goal)), [f"{p}: {g}" for p in provider for g in goal], fontsize=8
    )
    figure.suptitle(
        f"{actions.valid.sum()} of {actions.valid.size} combinations are valid", fontsize=11
    )
    figure.tight_layout()
    return figure


def intersection() -> plt.Figure:
    """Draw the number of feasible actions of two spaces and of both, by size."""
    budget_space = mr.BudgetTopK(n_actions=12, k=4)
    capacity_space = mr.Capacity(costs=[2, 3, 4] * 4, capacities=[7, 6])
    both = budget_space & capacity_space
    spaces = {
        "BudgetTopK(12, k=4)": (budget_space, BLUE),
        "Capacity, 2 workers": (capacity_space, ORANGE),
        "both": (both, GREEN),
    }
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    for i, (name, (space, color)) in enumerate(spaces.items()):
        sizes = np.bincount(space.enumerate().sum(axis=1), minlength=6)
        bars = axes.bar(
            np.arange(6) + 0.28 * (i - 1),
            sizes,
            width=0.26,
            color=color,
            label=f"{name}: {sizes.sum():,} actions",
        )
        axes.bar_label(bars, labels=[f"{n}" if n else "" for n in sizes], fontsize=7.5, padding=1)
    axes.set_xlabel("actions chosen")
    axes.set_ylabel("feasible actions")
    axes.margins(y=0.1)
    axes.legend(frameon=False)
    figure.tight_layout()
    return figure


def districts() -> plt.Figure:
    """Draw five visits, with and without the block that the page defines."""
    districts = ["north"] * 5 + ["centre"] * 4 + ["south"] * 3
    gains = np.array([3.1, 2.9, 2.7, 2.5, 0.4, 2.2, 1.8, 1.1, 0.9, 0.6, 0.5, 0.2])
    page = (ROOT / "docs" / "own-block.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    five = mr.BudgetTopK(n_actions=12, k=5)
    fair = names["FairByDistrict"](districts, k=2) & five
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.0), sharey=True)
    for panel, space, title in (
        (axes[0], five, "Five best"),
        (axes[1], fair, "Five best, one or two in each district"),
    ):
        actions = space.enumerate()
        chosen = actions[(actions @ gains).argmax()]
        panel.bar(range(12), gains, color=[BLUE if x else LIGHT for x in chosen])
        panel.set_title(f"{title}: {gains @ chosen:.1f}", fontsize=10)
        panel.set_xticks([2, 6.5, 10], ["north", "centre", "south"])
        for line in (4.5, 8.5):
            panel.axvline(line, color=GREY, lw=0.8, ls=":")
        panel.tick_params(axis="x", length=0)
    axes[0].set_ylabel("gain of a visit")
    figure.tight_layout()
    return figure


def bounds() -> plt.Figure:
    """Draw the bounds of a trained network's last hidden layer at the three strengths."""
    env = make_bandit("scheduling", 20, 5, seed=0)
    space = env.action_space_block()
    network = mr.to_network(ROOT / "benchmarks/networks/scheduling-J20-16-32.onnx")
    state, _ = env.reset(seed=0)
    box = box_maximum(np.zeros(20), np.ones(20))
    rows: tuple[tuple[str, Strength, LinearMax, str, float], ...] = (
        ("interval, over the box", "interval", box, LIGHT, 7),
        ("linear, over the box", "linear", box, FILLS[1], 5),
        ("linear, over the set", "linear", space.linear_max, BLUE, 3),
        ("lp, over the set", "lp", space.linear_max, "black", 1),
    )
    figure, axes = plt.subplots(figsize=(8.4, 4.0))
    for name, strength, oracle, color, width in rows:
        found = BoundPropagator(20, oracle, strength=strength, model=space.linear_model).at(
            NetworkValue(network, 20).at_states(state[None])
        )
        label = f"{name}: {found.unstable[0]} unstable, Q at most {found.output_upper[0, 0]:.2f}"
        low, high = found.lower[-1][0], found.upper[-1][0]
        axes.vlines(np.arange(len(low)), low, high, color=color, lw=width, label=label)
    axes.axhline(0, color=ORANGE, lw=1)
    axes.set_xlabel("neuron of the last hidden layer")
    axes.set_ylabel("pre-activation")
    best = mr.argmax(network, state, space).value
    axes.set_title(f"Largest Q over the feasible set: {best:.2f}", fontsize=10)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, fontsize=9)
    figure.tight_layout()
    return figure


def relu() -> plt.Figure:
    """Draw the relaxation of one neuron with wide and with tight bounds."""
    figure, panels = plt.subplots(1, 3, figsize=(9.0, 2.9), sharey=True)
    for panel, (low, high, title) in zip(
        panels,
        [(-4, 4, "wide bounds"), (-1, 2, "tight bounds"), (0.5, 3, "proven on: no binary")],
        strict=True,
    ):
        z = np.linspace(-4.6, 4.6, 400)
        if low < 0:
            corners = np.array([[low, 0], [0, 0], [high, high]])
            panel.fill(*corners.T, color=BLUE, alpha=0.2, lw=0)
            panel.plot([low, high], [0, high], color=BLUE, lw=1.2, ls="--")
        else:
            panel.plot([low, high], [low, high], color=BLUE, lw=6, alpha=0.3)
        panel.plot(z, np.maximum(z, 0), color=GREY, lw=1.6)
        for end, name in ((low, "l"), (high, "u")):
            panel.axvline(end, color=ORANGE, lw=1, ls=":")
            panel.text(end + 0.15, -0.75, f"${name}$", color=ORANGE)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("$z$")
        panel.set_ylim(-1.0, 4.2)
    panels[0].set_ylabel("$y$")
    figure.tight_layout()
    return figure


def box() -> plt.Figure:
    """Draw a Q-function over a constrained box, and its maximum."""
    weight = [[1.2, 0.4], [-0.9, 1.1], [0.5, -1.3], [-1.0, -0.8]]
    network = mr.Network.from_arrays(
        [weight, [[1.0, -1.4, -1.1, 0.2]]], [[-0.2, 0.3, 0.4, 0.1], [0.0]]
    )
    space = mr.Box([-1, -1], [1, 1], matrix=[[1.0, 0.8]], right=[0.7])
    best = mr.argmax(network, [], space)
    assert best.action is not None
    x, y = np.meshgrid(np.linspace(-1, 1, 300), np.linspace(-1, 1, 300))
    points = np.column_stack([x.ravel(), y.ravel()])
    q = network.forward(points)[:, 0].reshape(x.shape)
    inside = (points @ space.matrix.T <= space.right).all(axis=1).reshape(x.shape)
    figure, axes = plt.subplots(figsize=(5.4, 4.2))
    shown = axes.contourf(x, y, np.where(inside, q, np.nan), levels=14, cmap="Blues")
    axes.plot([-0.1 / 1.0, 1.0], [1.0, (0.7 - 1.0) / 0.8], color=GREY, lw=1.2)
    axes.text(0.62, 0.35, "infeasible", color=GREY)
    axes.plot(*best.action, marker="o", color=ORANGE, markersize=9)
    title = f"The proven maximum over the feasible part: {best.value:.3f}"
    axes.set(xlabel="$x_0$", ylabel="$x_1$", title=title, xticks=[-1, -0.5, 0, 0.5, 1])
    figure.colorbar(shown, ax=axes, label="$Q$")
    figure.tight_layout()
    return figure


PICTURES: tuple[Callable[[], plt.Figure], ...] = (
    budget, capacity, scheduling, routing, factored, intersection, districts, bounds, relu, box,
)  # fmt: skip


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder")
    parser.add_argument("--format", default="svg", choices=["svg", "png"])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        figure = picture()
        path = arguments.output / f"{picture.__name__}.{arguments.format}"
        metadata = {"Date": None} if arguments.format == "svg" else None
        figure.savefig(path, dpi=110, metadata=metadata)
        plt.close(figure)


if __name__ == "__main__":
    main()
