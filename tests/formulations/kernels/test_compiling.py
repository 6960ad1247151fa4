"""What is kept of compiled loops, and when it is compiled anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from milp_rl.formulations.kernels import compiling

CALLED = """
from kernels.compiling import compiled

@compiled
def called(x):
    return x + {added}
"""
CALLER = """
from kernels.called import called
from kernels.compiling import compiled

@compiled
def caller(x):
    return 10 * called(x)

print(caller(1), sum(caller.stats.cache_hits.values()))
"""


def run(folder: Path, added: int) -> list[str]:
    (folder / "kernels" / "called.py").write_text(CALLED.format(added=added))
    done = subprocess.run(
        [sys.executable, "caller.py"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "kept")},
    )
    return done.stdout.split()


def test_a_loop_is_compiled_anew_when_one_in_another_file_that_it_calls_has_changed(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    shutil.copy(compiling.__file__, tmp_path / "kernels")
    (tmp_path / "caller.py").write_text(CALLER)
    assert run(tmp_path, 1) == ["20", "0"]
    assert run(tmp_path, 1) == ["20", "1"]  # that it is kept at all
    assert run(tmp_path, 2) == ["30", "0"]
    assert run(tmp_path, 2) == ["30", "1"]
