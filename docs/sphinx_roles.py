"""Griffe extension: the docstrings' roles and formulas as Markdown.

Docstrings are written for ``help()`` and Sphinx: ``:class:`~milp_rl.QNetwork```, ``:math:`x```,
``.. math::``. Here a role becomes a link where its target is on the site and code where not, and a
formula what MathJax renders.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|data|mod|exc):`(~?)([\w.]+)`")
_MATH = re.compile(r":math:`([^`]+)`")
_DIRECTIVE = re.compile(r"^( *)\.\. math::(.*)$")


def to_markdown(text: str) -> str:
    """Rewrite a docstring."""
    return _MATH.sub(_inline, _ROLE.sub(_reference, _displayed(text)))


def _reference(match: re.Match[str]) -> str:
    short, target = match.groups()
    name = target.rsplit(".", 1)[-1] if short else target
    if not target.startswith("milp_rl."):
        return f"`{name}`"
    return f'<autoref identifier="{target}" optional><code>{name}</code></autoref>'


def _inline(match: re.Match[str]) -> str:
    formula = " ".join(match.group(1).split())
    return f"${formula}$"


def _displayed(text: str) -> str:
    """Replace ``.. math::`` and what is indented below it."""
    result: list[str] = []
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        match = _DIRECTIVE.match(lines[i])
        i += 1
        if match is None:
            result.append(lines[i - 1])
            continue
        indent, formula = match.group(1), [match.group(2).strip()]
        while i < len(lines) and (
            lines[i].startswith(indent + " ") or (not lines[i].strip() and not any(formula))
        ):
            formula.append(lines[i].strip())
            i += 1
        body = [line for line in formula if line]
        if any("&" in line for line in body):
            body = [r"\begin{aligned}", *body, r"\end{aligned}"]
        result += ["", *(indent + line for line in ["$$", *body, "$$"]), ""]
    return "\n".join(result)


class SphinxRoles(griffe.Extension):
    """Rewrites every docstring when the package is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
