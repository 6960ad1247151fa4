"""Formulas as MathML: browsers show them without scripts, fonts or a network.

Pages and docstrings mark theirs by the extension arithmatex, notebooks by dollars in cells of text.
A formula that cannot be converted stops the build.
"""

from __future__ import annotations

import html
import re
from typing import Any

from math_core import LatexToMathML

_MARKED = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>',
    re.DOTALL,
)
_CELL = re.compile(r'(?=<div class="jp-Cell\b)')
_CODE = re.compile(r"(<(code|pre)\b.*?</\2>)", re.DOTALL)
_DOLLARS = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<![\s\\])\$", re.DOTALL)

_converter = LatexToMathML()


def on_page_content(content: str, **_: Any) -> str:
    """Convert the formulas of a page."""
    return from_notebook(_MARKED.sub(_from_mark, content))


def from_notebook(content: str) -> str:
    """Convert what stands between dollars in a notebook's cells of text, code apart."""
    cells = _CELL.split(content)
    for k, cell in enumerate(cells):
        if "jp-MarkdownCell" in cell[:200]:
            parts = _CODE.split(cell)  # text, code, the name of its tag, text, ...
            parts[::3] = [_DOLLARS.sub(_from_dollars, text) for text in parts[::3]]
            cells[k] = "".join(part for j, part in enumerate(parts) if j % 3 < 2)
    return "".join(cells)


def to_mathml(formula: str, *, block: bool) -> str:
    """Convert TeX, as it stands in HTML."""
    tex = html.unescape(formula).strip()
    mathml: str = _converter.convert_with_local_state(tex, displaystyle=block)
    return f'<div class="formula">{mathml}</div>' if block else mathml


def _from_mark(match: re.Match[str]) -> str:
    return to_mathml(match[2], block=match[1] == "div")


def _from_dollars(match: re.Match[str]) -> str:
    if match[1] is not None:
        return to_mathml(match[1], block=True)
    return to_mathml(match[2], block=False)
