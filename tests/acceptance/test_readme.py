"""The README's code runs as it stands, from the top to the bottom."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import python

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_code_blocks_run_one_after_the_other(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(BLOCKS))
    done = python(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(BLOCKS) >= 2
    assert any("optimal" in line for line in lines)


def test_the_embedding_example_plans_visits(tmp_path):
    done = python(ROOT / "examples" / "embed.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("optimal: value - travel = ")
    assert done.stdout.count("visits patients") == 3


@pytest.mark.parametrize("folder", ["inside", "outside"])
def test_the_three_folders_import_under_one_name(folder, tmp_path):
    code = (
        "import milp_rl, milp_rl.formulations, milp_rl.solvers, milp_rl.dqn;"
        "assert all(callable(getattr(milp_rl, name)) for name in milp_rl.__all__)"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT if folder == "inside" else tmp_path, check=True)
