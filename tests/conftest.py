"""Networks that tests solve: drawn at random, degenerate, and trained."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from milp_rl.formulations.networks.network import Network

# A busy machine makes no example wrong.
settings.register_profile("milp_rl", deadline=None)
settings.load_profile("milp_rl")

RandomNetwork = Callable[..., Network]

_FIRST_SOLVE = """
import numpy as np
import milp_rl as mr
draw = np.random.default_rng(0).normal
weights, biases = [draw(size=(16, 20)), draw(size=(1, 16))], [draw(size=16), [0.0]]
network = mr.Network.from_arrays(weights, biases)
mr.ArgmaxSolver(network, mr.BudgetTopK(20, 5), solver="branch_and_bound").solve([])
"""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the loops once, rather than in all workers and their processes at the same time."""
    beside = config.getoption("numprocesses", default=None)
    if beside and not hasattr(config, "workerinput"):
        subprocess.run([sys.executable, "-c", _FIRST_SOLVE], check=False)


def _random_network(
    rng: np.random.Generator, n_inputs: int, hidden: tuple[int, ...], n_outputs: int = 1
) -> Network:
    """Weights as torch draws them, sometimes with dead, always-on and duplicate neurons."""
    sizes = (n_inputs, *hidden, n_outputs)
    weights, biases = [], []
    for before, after in pairwise(sizes):
        scale = 1 / np.sqrt(max(before, 1))
        weights.append(rng.uniform(-scale, scale, (after, before)))
        biases.append(rng.uniform(-scale, scale, after))
    if hidden and rng.random() < 0.3:
        biases[0][rng.integers(hidden[0])] = -10.0  # dead
        biases[0][rng.integers(hidden[0])] = 10.0  # always on
    if hidden and hidden[0] > 1 and rng.random() < 0.2:
        weights[0][0] = weights[0][1]
        biases[0][0] = biases[0][1]
    return Network.from_arrays(weights, biases)


def _trained_network(rng: np.random.Generator, n_inputs: int, hidden: tuple[int, ...]) -> Network:
    """Fit a value that is not linear in the action, with interactions."""
    x = rng.integers(0, 2, (200, n_inputs)).astype(float)
    gain = rng.normal(size=n_inputs)
    pair = rng.normal(size=(n_inputs, n_inputs)) / n_inputs
    y = np.tanh(x @ gain) + np.einsum("bi,ij,bj->b", x, pair, x)
    seed = int(rng.integers(2**31))
    model = MLPRegressor(hidden_layer_sizes=hidden, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return Network.from_arrays([w.T for w in model.coefs_], model.intercepts_)


@pytest.fixture(scope="session")
def random_network() -> RandomNetwork:
    return _random_network


@pytest.fixture(scope="session")
def trained_network() -> Callable[..., Network]:
    return _trained_network
