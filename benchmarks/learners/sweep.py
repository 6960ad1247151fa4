"""One parameter of the learner, or two, changed at a time in nine environments, 3,000 steps each.

It is the sweep that the step size of now was chosen by, so that the others are those of before.

Each training is a row of sweep.csv; those that are there are not made again.
`python -m benchmarks.learners.sweep --seed 0`
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch

from .__main__ import measure

RESULTS = Path(__file__).parent / "sweep.csv"
STEPS = 3000
DOMAINS = (
    "sysadmin20",
    "tamarisk16",
    "advising30",
    "assortment",
    "inventory",
    "multiple_interventions20",
    "path20",
    "scheduling20",
    "capacity20",
)
BEFORE: dict[str, Any] = {"learning_rate": 1e-3, "average_decay": 0.0}
"""What differed from the defaults of now when the sweep was made."""

SETTINGS: dict[str, dict[str, Any]] = {
    "learning_rate=1e-3": {},
    "discount=0.95": {"discount": 0.95},
    "n_step=3": {"n_step": 3},
    "updates_per_step=1": {"updates_per_step": 1},
    "updates_per_step=4": {"updates_per_step": 4},
    "learning_rate=3e-4": {"learning_rate": 3e-4},
    "learning_rate=3e-3": {"learning_rate": 3e-3},
    "updates_per_step=1, learning_rate=3e-4": {"updates_per_step": 1, "learning_rate": 3e-4},
    "updates_per_step=1, discount=0.95": {"updates_per_step": 1, "discount": 0.95},
    "weight_decay=0.01": {"weight_decay": 0.01},
    "sync_every=100": {"sync_every": 100},
    "priority_exponent=0": {"priority_exponent": 0.0, "importance_exponent": 0.0},
    "level_targets=False": {"level_targets": False},
    "pretrain_epochs=0": {"pretrain_epochs": 0, "random_steps": 1000},
    "normalise=False": {"normalise": False},
    "architecture='equivariant'": {"architecture": "equivariant"},
    "architecture='concat'": {"architecture": "concat"},
    "critics=2": {"critics": 2},
    "encoder=(32, 32)": {"encoder": [32, 32]},
    "double=True": {"double": True},
    "target_update='soft'": {"target_update": "soft"},
}
"""Changes of the defaults of then, by what a page calls them; those that take long are last."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = itertools.product(arguments.seed, arguments.setting, arguments.domain)
    for seed, setting, domain in names:
        settings = BEFORE | SETTINGS[setting]
        measure(arguments.results, domain, setting, "milp-rl", seed, STEPS, settings)


if __name__ == "__main__":
    main()
