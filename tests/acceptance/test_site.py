"""The built site: pages and pictures are there, no link is dead, and it needs no network."""

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("math_core", "mkdocs_jupyter", "mkdocstrings", "properdocs")


class Page(HTMLParser):
    """The places that a page can be entered at, its links, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.places, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(values["href"])


def problems(site):
    """Dead links and places within a site, and what its pages load from elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    pages.pop(site / "404.html", None)  # its links start at the root of a server
    found = set()
    for path, page in pages.items():
        for target in {*page.links, *page.loaded}:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    found.add(f"{path.relative_to(site)} loads {target}")
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[file].places if file in pages else ()
            if not file.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                found.add(f"{path.relative_to(site)} links to {target}")
    return found


def test_dead_links_and_what_needs_a_network_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="#top"></a><a href="b.html#part"></a><a href="https://x.org"></a>'
        '<img src="data:image/png;base64,"><a href="c.html"></a><a href="b.html#none"></a>'
        '<script src="https://x.org/x.js"></script><img src="d.png"><a href="folder"></a>'
    )
    (tmp_path / "b.html").write_text('<p id="part">')
    (tmp_path / "folder").mkdir()
    wanted = {f"a.html links to {name}" for name in ("c.html", "b.html#none", "d.png", "folder")}
    assert problems(tmp_path) == wanted | {"a.html loads https://x.org/x.js"}


SEARCHED = (
    "second best",
    "availability",
    "warm start",
    "ensemble",
    "leaky ReLU",
    "state dependent",
)


# One test, since the site is built once.
@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the site is built where the extra `docs` is installed",
)
def test_the_site_is_whole(tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr

    assert not problems(site)
    text = {path: path.read_text() for path in site.rglob("*.html")}
    listed = text[site / "tutorials" / "index.html"]
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        assert (site / "tutorials" / f"{notebook.stem}.html").exists()
        assert f'<li><a href="{notebook.stem}.html">' in re.sub(r"<li>\s+(<p>)?", "<li>", listed)
    for report in (ROOT / "results").rglob("report.md"):
        page = site / report.relative_to(ROOT).with_suffix(".html")
        pictures = re.findall(r'<img [^>]*src="[^"]+\.png"', text[page])
        assert len(pictures) == report.read_text().count("![")
    reference = text[site / "api" / "spaces.html"]
    assert "linear_max" in reference
    assert ":class:" not in reference
    assert "<math" in reference
    assert not [path for path, page in text.items() if "arithmatex" in page]

    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for query in SEARCHED:
        words = query.lower().split()
        assert any(all(w in (d["title"] + d["text"]).lower() for w in words) for d in index), query
