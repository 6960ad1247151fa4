"""What the site takes from outside ``docs/``, without copies in the repository.

- ``README.md`` is the home page; ``CONTRIBUTING.md`` and ``CHANGELOG.md`` are pages.
- The notebooks of ``examples/`` become pages of the section Tutorials, as they are stored.
- The reports and charts of ``benchmarks/`` and ``results/`` are pages and pictures under these
  names; a page of ``docs/`` shows a chart as in the repository, ``../results/report/overview.png``.
  A report's ``report.html``, which holds its charts once more, is neither kept nor needed.
- The three folders of the package are put together as they install, for the reference.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "examples"
MEASURED = ("benchmarks", "results")
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
FIRST = ("five_lines", "blocks", "training", "comparing", "embedding", "graphq")
"""Notebooks that come first, in this order; the others follow by name."""

_folders: list[tempfile.TemporaryDirectory[str]] = []


@event_priority(100)  # before mkdocstrings makes its handler
def on_config(config: Any) -> Any:
    """Append the notebooks to the navigation and tell mkdocstrings where the package is."""
    for entry in config.nav:
        if isinstance(entry, dict) and "Tutorials" in entry:
            entry["Tutorials"] += [{_title(path): _uri(path)} for path in notebooks()]
    _folders[:] = [tempfile.TemporaryDirectory(prefix="milp_rl-docs-")]  # the last one is removed
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers["python"]["paths"] = [_copy_package(Path(_folders[0].name, "package"))]
    return config


@event_priority(100)  # before the plugin that renders notebooks looks for them
def on_files(files: Files, config: Any) -> Files:
    """Add the root's pages, notebooks, reports and charts as if they lay in ``docs/``."""
    for name, uri in ROOT_PAGES.items():
        text = _from_docs((ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, uri, content=text))
    folder = Path(_folders[0].name, "notebooks")
    for path in notebooks():  # from a copy, since that plugin takes no generated files
        (folder / _uri(path)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / _uri(path))
        files.append(File(_uri(path), str(folder), config.site_dir, config.use_directory_urls))
    for name in MEASURED:
        for path in sorted((ROOT / name).rglob("*")):
            if path.suffix in (".md", ".png"):
                uri = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to charts beside ``docs/`` into links within the site."""
    charts = rf"\]\(\.\./((?:\.\./)*(?:{'|'.join(MEASURED)})/\S+\.png)\)"
    return re.sub(charts, r"](\1)", markdown)


def notebooks() -> list[Path]:
    """Return the notebooks in the order of the navigation."""

    def place(path: Path) -> tuple[int, str]:
        return (FIRST.index(path.stem) if path.stem in FIRST else len(FIRST), path.stem)

    return sorted(NOTEBOOKS.glob("*.ipynb"), key=place)


def _copy_package(folder: Path) -> str:
    """Lay the package out as it installs."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        sources = tomllib.load(file)["tool"]["setuptools"]["package-dir"]
    ignore = shutil.ignore_patterns("__pycache__")
    for name, source in sorted(sources.items()):
        target = folder.joinpath(*name.split("."))
        shutil.copytree(ROOT / source, target, ignore=ignore, dirs_exist_ok=True)
    return str(folder)


def _from_docs(text: str) -> str:
    """Turn links from the root of the repository into links within the site."""
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\]\(examples/(\w+\.ipynb)\)", r"](tutorials/\1)", text)
    for name, uri in ROOT_PAGES.items():
        text = text.replace(f"]({name})", f"]({uri})")
    return text


def _uri(path: Path) -> str:
    return f"tutorials/{path.name}"


def _title(path: Path) -> str:
    """Return the first heading of a notebook."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            for line in "".join(cell["source"]).splitlines():
                if line.startswith("# "):
                    return line[2:].strip()
    return path.stem.replace("_", " ").capitalize()
