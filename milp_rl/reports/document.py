"""Figures, and reports of sections with texts, tables and charts, as Markdown and HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milp_rl.extras import needs
from milp_rl.formulations.files import write_atomically

with needs("reports"):
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SMALLEST_TEXT = 12.0
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}th,td{border:1px solid #ccc;padding:.3em .6em;"
    "text-align:right}th:first-child,td:first-child{text-align:left}th{background:#f3f3f3}"
    "img{max-width:100%}"
)


@dataclass(frozen=True)
class Section:
    """A heading, and below it text, points, a table and charts, each of which may be missing."""

    heading: str
    text: str = ""
    table: pd.DataFrame | None = None
    charts: tuple[str, ...] = ()
    points: tuple[str, ...] = ()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all; no text in it is below 12 points."""
    for axes in figure.axes:
        axes.tick_params(labelsize=SMALLEST_TEXT)
    for text in figure.findobj(Text):
        if isinstance(text, Text) and float(text.get_fontsize()) < SMALLEST_TEXT:
            text.set_fontsize(SMALLEST_TEXT)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    write_atomically(path, png.getvalue())


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a report as Markdown, with links to its charts."""
    parts = [f"# {title}"]
    for section in sections:
        if section.heading:
            parts.append(f"## {section.heading}")
        if section.text:
            parts.append(section.text)
        if section.points:
            parts.append("\n".join(f"- {point}" for point in section.points))
        parts += [f"![{chart}]({chart})" for chart in section.charts]
        if section.table is not None:
            parts.append(section.table.to_markdown(stralign="right", disable_numparse=True))
    return "\n\n".join(parts) + "\n"


def to_html(title: str, sections: Sequence[Section], folder: Path) -> str:
    """Return a report as one HTML page that holds its charts, which are files in ``folder``."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        if section.heading:
            parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        if section.text:
            parts.append(f"<p>{html.escape(section.text)}</p>")
        if section.points:
            points = "\n".join(f"<li>{html.escape(point)}</li>" for point in section.points)
            parts.append(f"<ul>\n{points}\n</ul>")
        for chart in section.charts:
            data = base64.b64encode((folder / chart).read_bytes()).decode()
            parts.append(f'<img alt="{chart}" src="data:image/png;base64,{data}">')
        if section.table is not None:
            parts.append(section.table.to_html(border=0))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )
