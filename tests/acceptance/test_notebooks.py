"""The notebooks, executed from the first cell to the last, with short trainings."""

from pathlib import Path

import nbformat
import pytest

from tests.forks import python

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MILP_RL_FAST", "1")
    notebook = nbformat.read(path, as_version=4)
    assert any(cell.get("outputs") for cell in notebook.cells), "store it executed"
    run = python(Path(__file__).with_name("notebook.py"), path, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
