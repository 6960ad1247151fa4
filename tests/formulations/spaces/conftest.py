from __future__ import annotations

from collections.abc import Callable

import pytest

from milp_rl.formulations.testing import check_action_space

CheckSpace = Callable[..., object]


@pytest.fixture
def check_space() -> CheckSpace:
    """Return the conformance test with the seed and draws that the tests give."""

    def check(space, seed=0, support_draws=0):
        return check_action_space(space, seed=seed, support_draws=support_draws)

    return check
