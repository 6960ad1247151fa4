"""`make demo`."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import milp_rl as mr
from tests.forks import python

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_trains_compares_stores_and_reloads(tmp_path):
    result = python(ROOT / "examples" / "demo.py", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "episodes: 100%" in result.stderr  # the progress bar
    assert "optimal" in result.stdout.splitlines()[-1]

    table = pd.read_csv(tmp_path / "out" / "results.csv", keep_default_na=False)  # "null" is a name
    table = table.set_index("policy")
    assert list(table.index) == ["null", "random", "myopic", "iterative DQN", "SEQUOIA"]
    assert (table["episodes"] == 50).all()
    assert table.loc["SEQUOIA", "mean"] > table.loc["myopic", "mean"] > table.loc["null", "mean"]
    assert table.loc["SEQUOIA", "mean"] > table.loc["iterative DQN", "mean"]
    bought = re.search(r"iterative DQN: \+([\d.]+) a step, 95% interval ± ([\d.]+)", result.stdout)
    assert float(bought[1]) > float(bought[2])
    assert (tmp_path / "out" / "rewards.png").read_bytes().startswith(b"\x89PNG")

    space = mr.ActionSpace.from_json(tmp_path / "out" / "space.json")
    solver = mr.ArgmaxSolver(tmp_path / "out" / "q.onnx", space)
    best = mr.ArgmaxSolver(tmp_path / "out" / "q.onnx", space, solver="enumeration")
    for state in np.random.default_rng(0).integers(0, 4, (10, 12)):
        assert solver.solve(state).value == pytest.approx(best.solve(state).value, rel=1e-6)
