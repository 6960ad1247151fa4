import numpy as np
import pytest
import torch

from milp_rl.formulations.networks.action_value import NetworkValue
from milp_rl.formulations.networks.link import LINKS, linked
from milp_rl.formulations.networks.network import Layer, Network, NetworkError

TORCH = {
    "identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "softplus": torch.nn.functional.softplus,
}


@pytest.mark.parametrize("link", LINKS)
def test_links_are_the_increasing_functions_of_their_names(link):
    x = np.linspace(-9, 9, 55).reshape(5, 11)
    np.testing.assert_allclose(linked(link, x), TORCH[link](torch.from_numpy(x)), rtol=1e-12)
    assert (np.diff(linked(link, x.ravel())) > 0).all()
    assert np.isinf(linked(link, np.inf)) == (link not in ("sigmoid", "tanh"))


def test_a_state_keeps_the_link_and_the_negative_has_none():
    network = Network((Layer([[1.0, 2.0]], [0.5]),), "tanh")
    assert network.at_state([1.0]).link == "tanh"
    assert NetworkValue(network, 1).link == "tanh"
    assert network.negated().link == "identity"
    with pytest.raises(NetworkError, match="'cosine'"):
        Network((Layer([[1.0, 2.0]], [0.5]),), "cosine")
    with pytest.raises(ValueError, match="'cosine'"):
        linked("cosine", 1.0)
