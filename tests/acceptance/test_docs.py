"""The documentation: its code runs page by page, and what it names exists."""

import pkgutil
import re
import runpy
from pathlib import Path

import gymnasium
import pytest

import milp_rl.envs  # noqa: F401  (registers environments)
from tests.forks import python

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?```python\n(.*?)```", re.DOTALL)


def blocks(page):
    """The page's blocks of Python, without those after a comment that says why they do not run."""
    return [code for left_out, code in BLOCK.findall(page.read_text()) if not left_out]


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capfd):
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # what a page reads from a checkout
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page)))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    printed = capfd.readouterr().out
    for output in re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL):
        assert output in printed


def test_the_pages_have_code():
    names = {page.relative_to(DOCS).as_posix() for page in PAGES}
    wanted = {"concepts.md", "networks.md", "own-block.md", "formulations.md", "embedding.md"}
    wanted |= {"training.md"}
    assert wanted | {f"blocks/{page.name}" for page in (DOCS / "blocks").glob("*.md")} <= names


MADE = ("runs/", "demo/", "site/", "build/")  # by what a page describes
NAMED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "mkdocs.yml", *DOCS.rglob("*.md")]


def exists(name):
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", NAMED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_modules_and_files_that_a_page_names_exist(page):
    text = page.read_text()
    names = set(re.findall(r"\bmilp_rl(?:\.\w+)+", text))
    names |= {f"milp_rl.{name}" for name in re.findall(r"\bmr\.(\w+(?:\.\w+)*)", text)}
    assert not {name for name in names if not exists(name)}
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir())
    files = re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]*\w", text.replace("../", ""))
    missing = {name for name in files if not (ROOT / name).exists()}
    missing -= set(gymnasium.registry)  # environments
    assert not {name for name in missing if not name.startswith(MADE)}


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    pages |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "results").rglob("*.md")}
    assert not {page for page in pages if not re.search(rf"[ :-] {re.escape(page)}\b", text)}


def test_every_picture_is_drawn_and_shown(tmp_path):
    run = python(DOCS / "images" / "make.py", "--output", tmp_path, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    text = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert drawn == {path.name for path in (DOCS / "images").glob("*.svg")}
    assert drawn == set(re.findall(r"images/(\w+\.svg)\)", text))
