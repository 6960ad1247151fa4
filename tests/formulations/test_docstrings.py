"""The examples in docstrings run, and every block and formulation has its math and an example."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import milp_rl.formulations
import milp_rl.solvers
from milp_rl.formulations import spaces
from milp_rl.formulations.bounds import BoundPropagator
from milp_rl.formulations.embedding import add_network
from milp_rl.formulations.milp.bigm import write_upper
from milp_rl.formulations.milp.compact import compact_model
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.milp.partition import write_partition
from milp_rl.formulations.native_embedding import add_to_native
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.piecewise import relu_pieces
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax, SpatialArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.export import export_model
from milp_rl.solvers.milp.argmax import MilpArgmax
from milp_rl.solvers.models.solve import solve_model

BLOCKS = [
    kind
    for kind in (getattr(spaces, name) for name in spaces.__all__)
    if inspect.isclass(kind) and issubclass(kind, spaces.ActionSpace)
]
FORMULATIONS = [
    BoundPropagator,
    LinearModel,
    Network,
    add_network,
    add_to_native,
    compact_model,
    relu_pieces,
    write_partition,
    write_upper,
]
SOLVERS = [
    BranchAndBoundArgmax,
    EnumerationArgmax,
    MilpArgmax,
    SpatialArgmax,
    export_model,
    solve_model,
]
MODULES = [
    module.name
    for package in (milp_rl.formulations, milp_rl.solvers)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_give_what_they_show(name, capsys):
    module = importlib.import_module(name)
    if ">>> import gurobipy" in inspect.getsource(module):
        pytest.importorskip("gurobipy")
    failed, _ = doctest.testmod(module, globs={})  # complete, as a reader copies them
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("documented", [*BLOCKS, *FORMULATIONS, *SOLVERS], ids=lambda d: d.__name__)
def test_what_a_user_starts_with_has_its_math_and_an_example(documented):
    text = inspect.getdoc(documented)
    sections = text.split("\n\n")
    assert ".. math::" in text
    assert any(section.startswith("Examples\n--------") for section in sections)
    assert doctest.DocTestParser().get_examples(text)
    described = text.partition("Parameters\n----------")[2].splitlines()
    for name in inspect.signature(documented).parameters:
        assert any(name in line.split(", ") for line in described), name
