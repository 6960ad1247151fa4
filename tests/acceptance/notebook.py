"""Run the cells of a notebook, one after the other: ``notebook.py FILE``; an error ends it."""

import sys

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


class Shell(InteractiveShell):
    """A shell that makes of results and figures what a notebook shows, and shows it nowhere."""

    def enable_gui(self, gui: str | None = None) -> None:
        """Without windows there is nothing to do."""


shell = Shell.instance(config=Config(HistoryManager={"enabled": False}))
shell.run_line_magic("matplotlib", "inline")
for cell in nbformat.read(sys.argv[1], as_version=4).cells:
    if cell.cell_type == "code":
        shell.run_cell(cell.source).raise_error()
