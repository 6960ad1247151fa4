"""What observers of a training show."""

from __future__ import annotations

import subprocess
import sys


def test_a_notebook_without_ipywidgets_is_not_warned_of_bars():
    code = """
import sys, warnings
import ipykernel.zmqshell
sys.modules["ipywidgets"] = None
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import milp_rl.dqn
assert not [one for one in seen if "IProgress" in str(one.message)]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
