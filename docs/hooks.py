"""What the site takes from outside ``docs/``, without copies in the repository.

- ``README.md`` is the home page; ``CONTRIBUTING.md`` and ``CHANGELOG.md`` are pages.
- The notebooks of ``examples/`` become pages of the section Tutorials, as they are stored, and a
  list with their first words where ``docs/tutorials/index.md`` has ``<!-- notebooks -->``.
- The reports and charts of ``benchmarks/`` and ``results/`` are pages and pictures under these
  names; a page of ``docs/`` shows a chart as in the repository, ``../results/report/overview.png``.
  A report's ``report.html``, which holds its charts once more, is neither kept nor needed.
- The three folders of the package are put together as they install, for the reference.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "examples"
MEASURED = ("benchmarks", "results")
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
FIRST = ("five_lines", "your_own", "blocks", "training", "comparing", "embedding", "graphq")
"""Notebooks that come first, in this order; the others follow by name."""

LIST = "<!-- notebooks -->"

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


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """List the notebooks, and turn links to charts beside ``docs/`` into links within the site.

    The reference and the history name everything: in searches they come after what explains it.
    """
    if page.file.src_uri.startswith(("api/", "changelog")):
        page.meta.setdefault("search", {"boost": 0.3})
    if LIST in markdown:
        listed = [f"- [{_title(path)}]({path.name}): {_first_words(path)}" for path in notebooks()]
        markdown = markdown.replace(LIST, "\n".join(listed))
    charts = rf"\]\(\.\./((?:\.\./)*(?:{'|'.join(MEASURED)})/\S+\.png)\)"
    return re.sub(charts, r"](\1)", markdown)


def on_page_content(content: str, page: Page, files: Files, **_: Any) -> str:
    """Turn a notebook's links to the repository into links within the site, and offer its file.

    Links that stay are for the check of the built site to find.
    """
    if page.file.src_uri not in map(_uri, notebooks()):
        return content

    def within(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(NOTEBOOKS.name, html.unescape(match[1])))
        file = files.get_file_from_path(_site_uri(path))
        return match[0] if file is None else f'href="{file.url_relative_to(page.file)}{match[2]}"'

    content = re.sub(r'href="(?![a-z]+:|[#/])([^"#]+)((?:#[^"]*)?)"', within, content)
    name = posixpath.basename(page.file.src_uri)
    return f'<p class="notebook"><a href="{name}" download>{name}</a></p>{content}'


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


def _site_uri(path: str) -> str:
    """Return where the site has a file of the repository."""
    if path.startswith(f"{NOTEBOOKS.name}/"):
        return _uri(Path(path))
    return ROOT_PAGES.get(path, path.removeprefix("docs/"))


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
    heading = re.search(r"^# (.+)$", _first_cell(path), re.MULTILINE)
    return path.stem.replace("_", " ").capitalize() if heading is None else heading[1].strip()


def _first_words(path: Path) -> str:
    """Return the first paragraph of a notebook, on one line."""
    paragraphs = _first_cell(path).split("\n\n")
    text = next((text for text in paragraphs if not text.startswith("#")), "")
    return " ".join(text.split())


def _first_cell(path: Path) -> str:
    """Return the first cell of text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return next(texts, "")
