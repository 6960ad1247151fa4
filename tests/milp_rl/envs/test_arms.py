"""What an environment says of its arms is checked."""

import numpy as np
import pytest

from milp_rl.envs import Arms


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_arms": 0, "arm_features": 1}, "n_arms must be at least 1, got 0"),
        ({"n_arms": 2, "arm_features": -1}, "arm_features must be at least 0, got -1"),
        ({"n_arms": 2, "arm_features": 1, "layout": "row"}, "layout must be .* got 'row'"),
        ({"n_arms": 2, "arm_features": 1, "neighbours": np.ones((2, 3))}, r"got \(2, 3\)"),
        ({"n_arms": 2, "arm_features": 1, "neighbours": -np.ones((2, 2))}, "not negative"),
        ({"n_arms": 2, "arm_features": 1, "neighbours": [[0, np.inf], [1, 0]]}, "finite"),
    ],
)
def test_wrong_numbers_and_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Arms(**arguments)
