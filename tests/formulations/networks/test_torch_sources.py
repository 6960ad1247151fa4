"""Torch modules as people write them, against torch."""

import copy
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from milp_rl.formulations.networks.action_value import NetworkValue
from milp_rl.formulations.networks.conversion import to_action_value, to_network
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import Network, NetworkError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def linear(*widths):
    layers = [nn.Linear(n, m) for n, m in pairwise(widths)]
    return layers[0] if len(layers) == 1 else layers


class Module(nn.Module):
    """A module made of layers and a function."""

    def __init__(self, layers, function, **buffers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.function(self, *self.layers, x)


def normalised():
    norm = nn.BatchNorm1d(8)
    norm.train()
    norm(torch.randn(100, 8) * 3 + 1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def chain(*layers):
    return nn.Sequential(nn.Linear(6, 8), *layers, nn.Linear(8, 1)).eval()


CHAINS = {
    "no biases": nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)),
    "BatchNorm1d": chain(normalised(), nn.ReLU()),
    "BatchNorm1d after ReLU": chain(nn.ReLU(), normalised()),
    "BatchNorm1d without weights": chain(nn.BatchNorm1d(8, affine=False), nn.ReLU()),
    "LeakyReLU": chain(nn.LeakyReLU(0.3)),
    "LeakyReLU after ReLU": chain(nn.ReLU(), nn.LeakyReLU()),
    "LeakyReLU twice": chain(nn.LeakyReLU(0.3), nn.LeakyReLU(0.2)),
    "PReLU": chain(nn.PReLU()),
    "PReLU, one slope a feature": chain(nn.PReLU(8, init=0.6)),
    "ReLU6": chain(nn.ReLU6()),
    "Hardtanh": chain(nn.Hardtanh(-0.2, 0.4)),
    "Hardsigmoid": chain(nn.Hardsigmoid()),
    "Dropout": chain(nn.ReLU(), nn.Dropout(), nn.AlphaDropout()),
    "Flatten first": nn.Sequential(nn.Flatten(), chain(nn.ReLU())),
    "activations first": nn.Sequential(nn.LeakyReLU(), nn.Hardtanh(), chain(nn.ReLU())),
    "activation last": nn.Sequential(nn.Linear(6, 3), nn.LeakyReLU()),
}

OWN = {
    "plain": Module(
        linear(6, 8, 8, 1), lambda _, a, b, c, x: c(functional.relu(b(torch.relu(a(x)))))
    ),
    "one Sequential": Module([chain(nn.ReLU())], lambda _, layers, x: layers(x)),
    "squeeze": Module(linear(6, 8, 1), lambda _, a, b, x: b(a(x).relu()).squeeze(-1)),
}

GENERAL = {
    "normalised inputs": Module(
        linear(6, 8, 1),
        lambda m, a, b, x: b(a((x - m.mean) / m.deviation).relu()) * 10 + 3,
        mean=torch.randn(6),
        deviation=torch.rand(6) + 0.5,
    ),
    "dueling": Module(
        [nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 4)],
        lambda _, f, v, a, x: v(f(x).relu()) + a(f(x).relu()) - a(f(x).relu()).mean(-1, True),
    ),
    "residual": Module(
        [nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 1)],
        lambda _, a, b, c, x: c(a(x).relu() + b(a(x).relu()).relu()),
    ),
    "dense": Module(
        [nn.Linear(6, 8), nn.Linear(14, 1)],
        lambda _, a, b, x: b(torch.cat([x, functional.leaky_relu(a(x))], -1)),
    ),
    "clamp": Module(linear(6, 8, 1), lambda _, a, b, x: b(torch.clamp(a(x), -0.1, 0.5))),
    "clamp between an integer and another number": Module(
        linear(6, 8, 1), lambda _, a, b, x: b(a(x).clamp(0, 0.5) + torch.clip(a(x), -0.1, 1))
    ),
    "maximum": Module(
        linear(6, 8, 1), lambda _, a, b, x: b(torch.maximum(a(x), torch.zeros_like(a(x))))
    ),
    "where": Module(linear(6, 8, 1), lambda _, a, b, x: b(torch.where(a(x) > 0, a(x), 0.2 * a(x)))),
    "twin heads": Module(
        [nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 1)],
        lambda _, f, a, b, x: torch.min(a(f(x).relu()), b(f(x).relu())),
    ),
    "negative": Module(linear(6, 8, 1), lambda _, a, b, x: -b(a(x).relu())),
    "inputs reordered": Module(
        linear(6, 8, 1), lambda _, a, b, x: b(a(torch.cat([x[:, 3:], x[:, :3]], 1)).relu())
    ),
    "convolution": Module(
        [nn.Conv1d(1, 3, 3), nn.Linear(12, 1)],
        lambda _, c, a, x: a(c(x.unsqueeze(1)).relu().flatten(1)),
    ),
    "residual in a Sequential": nn.Sequential(
        nn.Linear(6, 8),
        Module([nn.Linear(8, 8)], lambda _, a, x: x + a(x).relu()),
        nn.Linear(8, 1),
    ),
    "Unflatten and Flatten": chain(nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.ReLU()),
    "of one sample": Module(linear(6, 8, 1), lambda _, a, b, x: b(a(x).relu()).squeeze()),
    "double": Module(linear(6, 8, 1), lambda _, a, b, x: b(a(2 * x).relu()) / 3).double(),
    "Sigmoid last": nn.Sequential(chain(nn.ReLU()), nn.Sigmoid()),
    "Softplus last": Module(
        linear(6, 8, 1), lambda _, a, b, x: functional.softplus(b(a(x).relu()))
    ),
}

GENERAL["convolution"].n_inputs = 6  # which no layer says


def compared(network, module, width=6, tolerance=1e-5):
    kind = next(module.parameters()).dtype
    x = torch.randn(100, width).to(kind)
    expected = module(x).detach().double().numpy().reshape(100, -1)
    given = linked(network.link, network.forward(x.double().numpy()))
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", [*CHAINS, *OWN])
def test_layers_in_a_row_are_read_without_exporting_them(name, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", None)
    module = (CHAINS | OWN)[name]
    compared(to_network(module), module, tolerance=1e-6)


@pytest.mark.parametrize("name", GENERAL)
def test_modules_with_their_own_forward(name):
    module = GENERAL[name]
    compared(to_network(module), module)
    value = (
        to_action_value(module, 4, output=0) if name == "dueling" else to_action_value(module, 4)
    )
    assert (value.n_actions, value.state_dim) == (4, 2)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (chain(nn.ELU(), nn.Linear(8, 8), nn.GELU()), ("1/elu", "3/gelu")),
        (chain(nn.Tanh(), nn.Linear(8, 8), nn.SiLU()), ("1/tanh", "3/silu")),
        (
            chain(nn.Softplus(), nn.Linear(8, 8), nn.LayerNorm(8)),
            ("1/softplus", "3/layer_norm"),
        ),
    ],
    ids=str,
)
def test_smooth_layers_are_refused_by_their_names_all_at_once(module, names):
    with pytest.raises(NetworkError) as caught:
        to_network(module)
    assert all(name in str(caught.value) for name in names)


def with_old_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = nn.utils.weight_norm(nn.Linear(6, 8))
        second = nn.utils.spectral_norm(nn.Linear(8, 8))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(8, 1)).eval()


def parametrized():
    first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    second = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(8, 1)).eval()


WRAPPED = {
    "torch.compile": lambda: torch.compile(chain(nn.ReLU())),
    "DataParallel": lambda: nn.DataParallel(chain(nn.ReLU())),
    "torch.jit.script": lambda: torch.jit.script(chain(nn.ReLU())),
    "torch.jit.trace": lambda: torch.jit.trace(chain(nn.LeakyReLU()), torch.zeros(2, 6)),
    "parametrizations": parametrized,
    "older norms": with_old_norm,
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_wrapped_modules(name):
    module = WRAPPED[name]()
    plain = module._orig_mod if name == "torch.compile" else module
    for _ in range(2):
        compared(to_network(module), plain)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_half_precision_is_read_as_the_weights_are(dtype, name):
    module = copy.deepcopy((OWN | GENERAL)[name]).to(dtype)
    compared(to_network(module), copy.deepcopy(module).float())


def test_a_module_stays_as_it_is():
    module = nn.Sequential(parametrized().train(), copy.deepcopy(GENERAL["negative"]).layers[1])
    module = nn.Sequential(nn.Sequential(*list(module[0])[:3]), nn.ReLU(), module[1])
    module(torch.randn(4, 6)).sum().backward()
    before, rng = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    module.register_forward_hook(lambda *_: None)  # which makes it go through torch.export
    to_network(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(layer.training for layer in module[0].modules())
    assert nn.utils.parametrize.is_parametrized(module[0][0])
    assert all(p.grad is not None and p.requires_grad for p in module.parameters())
    assert torch.equal(rng, torch.get_rng_state())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(6, 8), nn.Linear(8, 1), 2.0

    def forward(self, x):
        h = self.a(self.scale * x).relu()
        return self.b(h + h.clamp(max=0.3))


def test_new_weights_do_not_export_a_module_again(monkeypatch):
    module = Scaled()
    compared(to_network(module), module)
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", None)
    for _ in range(3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        compared(to_network(module), module)
    monkeypatch.setattr(torch.onnx, "export", export)
    module.scale = -1.0
    compared(to_network(module), module)
    module.b = nn.Linear(8, 3)
    compared(to_network(module), module)


def test_modules_that_are_gone_are_forgotten():
    from milp_rl.formulations.networks import torch_export

    module = Scaled()
    to_network(module)
    before = len(torch_export._programs)
    del module
    assert len(torch_export._programs) == before - 1


class Critic(nn.Module):
    def __init__(self, state_dim=4, action_dim=2):
        super().__init__()
        self.a, self.b = nn.Linear(state_dim + action_dim, 8), nn.Linear(8, 1)

    def forward(self, obs, act):
        return self.b(self.a(torch.cat([obs, act], 1)).relu())


class ActionFirst(Critic):
    def forward(self, a, x):
        return super().forward(x, a)


class Unnamed(Critic):
    def forward(self, x, y):
        return super().forward(x, y)


def check_critic(value, module, state_first):
    assert (value.n_actions, value.state_dim) == (2, 4)
    states, actions = torch.randn(50, 4), torch.randint(0, 2, (50, 2)).float()
    expected = module(*((states, actions) if state_first else (actions, states)))
    given = value.values(states.double().numpy(), actions.double().numpy())
    np.testing.assert_allclose(given, expected.detach().numpy()[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "inputs", "state_first"),
    [
        (Critic, None, True),
        (ActionFirst, None, False),
        (Unnamed, ("state", "action"), True),
        (Unnamed, {"action": "y", "state": "x"}, True),
    ],
)
def test_critics_of_two_arguments(kind, inputs, state_first):
    module = kind()
    check_critic(to_action_value(module, 2, inputs=inputs), module, state_first)


def test_arguments_without_names_are_asked_for():
    with pytest.raises(NetworkError, match=r"which argument of Unnamed.forward\(x, y\) is the act"):
        to_action_value(Unnamed(), 2)


def test_a_network_of_two_arguments_needs_both_widths():
    with pytest.raises(
        NetworkError, match=r"attributes state_dim and action_dim, or .*to_action_v"
    ):
        to_network(Critic())
    module = Critic()
    module.state_dim, module.action_dim = 4, 2
    network = to_network(module)
    assert isinstance(network, Network)
    check_critic(NetworkValue(network, 2), module, True)


def test_one_argument_with_the_state_first():
    module = Module(
        linear(6, 8, 1), lambda _, a, b, x: b(a(torch.cat([x[:, 4:], x[:, :4]], 1)).relu())
    )
    for source in (module, nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))):
        value = to_action_value(source, 2, inputs=("state", "action"))
        states, actions = torch.randn(50, 4), torch.randint(0, 2, (50, 2)).float()
        expected = source(torch.cat([states, actions], 1)).detach().numpy()[:, 0]
        given = value.values(states.double().numpy(), actions.double().numpy())
        np.testing.assert_allclose(given, expected, atol=1e-6)


def test_widths_that_cannot_be_told_are_asked_for():
    module = Module(linear(2, 2, 1), lambda _, a, b, x: b(a(x[:, :2]).relu()) + x[:, -1:])
    # It runs with 2 features, and with any number above.
    with pytest.raises(NetworkError, match=r"runs with several widths .*; give it state_dim="):
        to_action_value(Module([nn.Linear(2, 3), nn.Linear(3, 1)], module.function), 1)
    value = to_action_value(
        Module([nn.Linear(2, 3), nn.Linear(3, 1)], module.function), 1, state_dim=4
    )
    assert value.state_dim == 4


class Branching(Critic):
    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h) if h.sum() > 3 else -self.b(h)


class Noisy(Critic):
    def forward(self, x):
        return self.b(self.a(x).relu()) + torch.randn(1)


class Peeking(Critic):
    """Does something else with what is no tensor, such as what stands for one while tracing."""

    def forward(self, x):
        return self.b(self.a(2 * x if isinstance(x, torch.Tensor) else x).relu())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching(), "torch cannot export the forward of Branching"),
        (Noisy(), "RandomNormalLike node 'randn"),
        (nn.ModuleList(linear(6, 8, 1)), r"ModuleList has no forward; .*Sequential\(\*layers\)"),
        (nn.Sequential(nn.LazyLinear(4)), "'0.weight' has no shape yet; run the module once"),
        (nn.Bilinear(3, 4, 1), "which argument of Bilinear"),
        (chain(nn.ReLU(), nn.Dropout()).train(), r"'2' is a Dropout.*call \.eval\(\)"),
        (chain(nn.ReLU(), nn.BatchNorm1d(8)).train(), r"'2' is a BatchNorm1d.*call \.eval\(\)"),
        (nn.Linear(3, 1, device="meta"), "'weight' is on the meta device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read(module, message):
    with pytest.raises(NetworkError, match=message):
        to_network(module)


def test_a_forward_that_looks_at_types_is_exported():
    module = Peeking()
    compared(to_network(module), module)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Linear(2, 1).state_dict(), "a state_dict has weights alone: load it"),
        ([nn.Linear(2, 1)], "several critics are an Ensemble"),
        (lambda x: x, "what a function computes"),
        (3, "got int"),
    ],
)
def test_other_types(source, message):
    for convert in (to_network, lambda given: to_action_value(given, 1)):
        with pytest.raises(TypeError, match=message):
            convert(source)


class Offering(nn.Module):
    def forward(self, x):
        return x.sum(-1, keepdim=True) * torch.sin(x.new_zeros(1))

    def to_network(self):
        return Network.from_arrays([np.zeros((1, 3))], [[0.0]])


class Inheriting(Offering):
    def forward(self, x):
        return x.sum(-1, keepdim=True)


def test_a_module_may_say_what_network_it_is():
    assert to_network(Offering()).n_inputs == 3
    assert to_action_value(Offering(), 2).state_dim == 1
    network = to_network(Inheriting(), n_inputs=4)  # whose forward is another
    np.testing.assert_allclose(network.forward(np.eye(4)), np.ones((4, 1)))


NUMBERS = {
    "factor": lambda y: 0.7 * (y + 100),
    "sum": lambda y: y * 2 + 0.1,
    "difference": lambda y: 1.1 - y,
    "quotient": lambda y: y / 0.3,
    "leaky": lambda y: functional.leaky_relu(y - 0.1, 0.03),
    "leaky by default": lambda y: functional.leaky_relu(y - 0.1),
    "leaky in place": lambda y: functional.leaky_relu(y - 0.1, 0.03, inplace=True),
    "alike": lambda y: functional.leaky_relu(y, 0.7) * 0.3 + (0.1 + 0.2),
    "hardtanh": lambda y: functional.hardtanh(y * 10, -0.3, 0.7),
    "limits": lambda y: torch.clamp(y * 10 + 0.2, min=-1.1, max=0.7),
    "alpha": lambda y: torch.add(y, y, alpha=0.3),
    "filled": lambda y: y + torch.full_like(y, 0.3),
}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_a_forward_keep_their_digits(name, double):
    """A float64 module's; what float32 rounds, the module in float32 rounds too."""

    def function(m, first, last, x):
        return NUMBERS[name](last(torch.relu(first(x))))

    module = Module(linear(6, 8, 1), function).eval()
    rows = torch.randn(50, 6, dtype=torch.float64)
    with torch.no_grad():
        if not double:
            network = to_network(module, n_inputs=6)
            wanted = module(rows.float()).double()
        else:
            network = to_network(module.double(), n_inputs=6)
            wanted = module(rows)
    error = np.abs(network.forward(rows.numpy()) - wanted.numpy()).max() / wanted.abs().max()
    assert error < (1e-14 if double else 1e-5)


def test_numbers_that_float32_confuses_are_refused():
    def function(m, first, last, x):
        return last(torch.relu(first(x))) * 0.1 + (0.1 + 1e-12)

    with pytest.raises(NetworkError, match=r"cannot tell 0\.1\d* and 0\.1\d* of the forward"):
        to_network(Module(linear(6, 8, 1), function).double().eval(), n_inputs=6)
