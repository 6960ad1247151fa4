"""The README's code runs as it stands, from the top to the bottom."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(*command, cwd):
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_code_blocks_run_one_after_the_other(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(BLOCKS))
    lines = run(script, cwd=tmp_path).splitlines()
    assert len(BLOCKS) >= 2
    assert any("optimal" in line for line in lines)


def test_the_embedding_example_plans_visits(tmp_path):
    text = run(ROOT / "examples" / "embed.py", cwd=tmp_path)
    assert text.startswith("optimal: value - travel = ")
    assert text.count("visits patients") == 3


@pytest.mark.parametrize("folder", ["inside", "outside"])
def test_the_three_folders_import_under_one_name(folder, tmp_path):
    code = (
        "import milp_rl, milp_rl.formulations, milp_rl.solvers, milp_rl.dqn;"
        "assert all(callable(getattr(milp_rl, name)) for name in milp_rl.__all__)"
    )
    run("-c", code, cwd=ROOT if folder == "inside" else tmp_path)
