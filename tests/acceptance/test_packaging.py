"""The package as it is built and installed."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MODULES = (
    "milp_rl",
    "milp_rl.argmax_solver",
    "milp_rl.cli.main",
    "milp_rl.dqn",
    "milp_rl.envs",
    "milp_rl.experiments",
    "milp_rl.formulations.pyomo",
    "milp_rl.graphq",
    "milp_rl.offline",
    "milp_rl.comparison.run",
    "milp_rl.comparison.worker",
)
FIVE_LINES = """
import milp_rl as mr
space = mr.BudgetTopK(n_actions=20, k=5) & mr.Capacity([2, 3, 4, 5] * 5, [7, 6, 4])
network = mr.Network.from_arrays([[[1.0] * 20 + [0.5]], [[1.0]]], [[-2.0], [0.0]])
result = mr.argmax(network, [0.3], space)
print(result.status, mr.__file__)
"""
WHAT_IF = """
try:
    mr.ArgmaxSolver(network, space).what_if([0.3]).variable_table()
except ImportError as error:
    print(error)
import sys
print([name for name in ("torch", "gymnasium", "pandas") if name in sys.modules])
"""
READ_PARQUET = """
from milp_rl.offline import CareData
try:
    CareData.read("weeks.parquet")
except ImportError as error:
    assert 'pyarrow is not installed: pip install "milp-rl[offline]"' in str(error)
"""
WITHOUT = """
import importlib, sys
missing, names = sys.argv[1].split(","), sys.argv[2:]

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing)
{first}
for name in names:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        print(attribute and getattr(found, attribute) and "")
    except ImportError as error:
        print(error)
"""
IMPORTED = {"scikit-learn": "sklearn", "pyrddlgym": "pyRDDLGym"}
REQUIRED = runpy.run_path(str(ROOT / "tools" / "lowest_versions.py"))["required"]


def run(*command, cwd, **keywords):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, **keywords
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build a source distribution from a clean copy, and a wheel from that.

    With what is installed: `make types` builds with the requirements of the build alone.
    """
    copy, out = tmp_path_factory.mktemp("copy") / "source", tmp_path_factory.mktemp("dist")
    run("git", "clone", "--quiet", ROOT, copy, cwd=out)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy, cwd=out)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.mark.slow
def test_wheel_and_source_have_what_they_need(built):
    source, wheel = built
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "milp_rl/py.typed",
        "milp_rl/formulations/spaces/box.py",
        "milp_rl/formulations/testing.py",
        "milp_rl/comparison/run.py",
    } <= names
    assert any(name.startswith("milp_rl/formulations/spaces/data/") for name in names)
    assert not any(name.startswith(("tests/", "docs/", "formulations/")) for name in names)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in packages["packages"]:
        assert any(name.startswith(package.replace(".", "/") + "/") for name in names)
    with tarfile.open(source) as archive:
        inside = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "formulations/networks/network.py"} <= inside


@pytest.mark.slow
def test_the_wheel_works_where_the_checkout_is_not(built, tmp_path):
    """Installed into an empty folder that comes first; dependencies are those of the tests."""
    _, wheel = built
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
    run(*pip, "--target", site, wheel, cwd=tmp_path)
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    printed = run(sys.executable, "-c", FIVE_LINES, cwd=tmp_path, env=environment)
    assert printed.split()[0] == "optimal"
    assert str(site) in printed
    shown = run(site / "bin" / "milp-rl", "--help", cwd=tmp_path, env=environment)
    assert all(name in shown for name in ("argmax", "compare", "experiment"))


def test_imports_are_clean(tmp_path):
    run(sys.executable, "-W", "error", "-c", f"import {', '.join(MODULES)}", cwd=tmp_path)


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*extras):
    """Return what the project requires with extras, and with what these name in turn."""
    return [Requirement(one) for one in REQUIRED(project(), extras)]


def packages(*extras):
    """Return the names by which the packages that extras require are imported."""
    names = (canonicalize_name(one.name) for one in requirements(*extras))
    return {IMPORTED.get(name, name.replace("-", "_")) for name in names}


def said(tmp_path, extras, names, first=""):
    """Import names where only extras are installed: what was printed first, and each message."""
    missing = packages(*project()["optional-dependencies"]) - packages(*extras) - {"packaging"}
    command = (sys.executable, "-c", WITHOUT.format(first=first), ",".join(missing), *names)
    lines = run(*command, cwd=tmp_path).splitlines()
    return lines[: -len(names)], dict(zip(names, lines[-len(names) :], strict=True))


def test_the_core_solves_and_names_the_extra_of_what_it_has_not(tmp_path):
    known = {
        "milp_rl.formulations.testing": "",
        "milp_rl.proofs": "",
        "milp_rl.heuristics.continuous": "",
        "milp_rl.comparison.run": "",
        "milp_rl.solvers.milp.pyomo_model": "",
        "milp_rl.cli.main": "",
        "milp_rl:QNetwork": 'torch is not installed: pip install "milp-rl[learn]"',
        "milp_rl:ArmQNetwork": 'torch is not installed: pip install "milp-rl[learn]"',
        "milp_rl:DQNAgent": "[learn]",
        "milp_rl.envs": "[learn]",
        "milp_rl.evaluation": "[learn]",
        "milp_rl.baselines": "[learn]",
        "milp_rl.experiments": "[learn]",
        "milp_rl.comparison.report": "[reports]",
        "milp_rl.graphq": "[graphq]",
        "milp_rl.offline": "[offline]",
    }
    printed, messages = said(tmp_path, (), known, FIVE_LINES + WHAT_IF)
    assert printed[0].startswith("optimal")
    assert printed[1:] == ['pandas is not installed: pip install "milp-rl[reports]"', "[]"]
    for name, message in known.items():
        assert message in messages[name] if message else not messages[name], (name, messages[name])


def test_extras_have_what_they_are_for(tmp_path):
    every = ("milp_rl.dqn", "milp_rl.envs.performative", "milp_rl.experiments.training")
    _, messages = said(tmp_path, ("reports",), ("milp_rl.comparison.report",))
    assert set(messages.values()) == {""}
    names = ("milp_rl.graphq", "milp_rl.experiments.tuning", "milp_rl.offline", *every)
    _, messages = said(tmp_path, ("learn",), names, READ_PARQUET)
    assert messages.pop("milp_rl.graphq").endswith('pip install "milp-rl[graphq]"')
    assert messages.pop("milp_rl.experiments.tuning").endswith('pip install "milp-rl[experiments]"')
    assert set(messages.values()) == {""}


def pins(text):
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


def test_what_is_installed_from_the_lock_is_allowed():
    locked = pins((ROOT / "constraints.txt").read_text())
    for requirement in requirements("all", "docs", "lint", "test"):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])
    assert locked["torch"] == "2.13.0"
    assert not [name for name in locked if name.startswith(("nvidia-", "cuda-"))]


def test_the_lowest_versions_are_allowed():
    lowest = pins(run(sys.executable, "tools/lowest_versions.py", "all,docs,test", cwd=ROOT))
    wanted = requirements("all", "docs", "test")
    assert lowest.keys() == {canonicalize_name(one.name) for one in wanted}
    for requirement in wanted:
        assert requirement.specifier.contains(lowest[canonicalize_name(requirement.name)])


def test_every_extra_is_in_the_documentation():
    extras = project()["optional-dependencies"]
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for extra in extras:
        assert f"[{extra}]" in text or f"`{extra}`" in text, extra


def test_every_package_is_listed():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    roots = {
        "milp_rl": "milp_rl",
        "formulations": "milp_rl.formulations",
        "solvers": "milp_rl.solvers",
    }
    for folder, name in roots.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            assert ".".join((name, *inner)) in listed
