from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omlt import OffsetScaling
from omlt.neuralnet import NetworkDefinition
from omlt.neuralnet.layer import DenseLayer, InputLayer

from milp_rl.formulations.arrays import check_vector
from milp_rl.formulations.networks.network import Layer, Network, NetworkError
from milp_rl.formulations.networks.omlt_reader import read_omlt


def random_layers(rng, widths, activations):
    return [
        Layer(rng.normal(size=(m, n)), rng.normal(size=m), activation)
        for (n, m), activation in zip(pairwise(widths), activations, strict=True)
    ]


def evaluate(layers, x):
    """The definition of the network, layer by layer, without merging."""
    for layer in layers:
        x = layer.weight @ x + layer.bias
        if layer.activation == "relu":
            x = np.maximum(x, 0)
    return x


def omlt_definition(layers, scaling=None, input_size=None):
    definition = NetworkDefinition(scaling_object=scaling)
    before = InputLayer(input_size or [layers[0].weight.shape[1]])
    definition.add_layer(before)
    for layer in layers:
        dense = DenseLayer(
            before.output_size,
            [*before.output_size[:-1], len(layer.bias)],
            layer.weight.T,
            layer.bias,
            activation=layer.activation,
        )
        definition.add_layer(dense)
        definition.add_edge(before, dense)
        before = dense
    return definition


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    data=st.data(),
)
def test_any_mix_of_activations_gives_hidden_relu_layers_and_the_same_function(seed, widths, data):
    n = len(widths) - 1
    activations = data.draw(
        st.lists(st.sampled_from(["relu", "linear"]), min_size=n, max_size=n), label="activations"
    )
    rng = np.random.default_rng(seed)
    layers = random_layers(rng, widths, activations)
    network = Network(tuple(layers))
    assert [layer.activation for layer in network.hidden] == ["relu"] * len(network.hidden)
    assert network.output.activation == "linear"
    assert (network.n_inputs, network.n_outputs) == (widths[0], widths[-1])
    x = rng.normal(size=(7, widths[0]))
    np.testing.assert_allclose(
        network.forward(x), [evaluate(layers, row) for row in x], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(network.negated().forward(x), -network.forward(x))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), state_dim=st.integers(0, 4))
def test_at_state_fixes_the_trailing_inputs(seed, state_dim):
    rng = np.random.default_rng(seed)
    network = Network(tuple(random_layers(rng, [3 + state_dim, 4, 2], ["relu", "linear"])))
    state, actions = rng.normal(size=state_dim), rng.normal(size=(5, 3))
    together = np.hstack([actions, np.tile(state, (5, 1))])
    np.testing.assert_allclose(
        network.at_state(state).forward(actions), network.forward(together), atol=1e-12
    )


def test_a_state_that_leaves_no_action_is_refused():
    network = Network.from_arrays([np.ones((1, 3))], [np.zeros(1)])
    with pytest.raises(ValueError, match="no action inputs"):
        network.at_state(np.zeros(3))


def test_the_network_keeps_its_values_when_the_arrays_given_change():
    weight, bias = np.ones((1, 2)), np.zeros(1)
    network = Network.from_arrays([weight], [bias])
    weight[:] = 5.0
    bias[:] = 5.0
    assert network.forward([1.0, 1.0]) == [2.0]


def test_single_and_half_precision_weights_are_kept_exactly():
    weight = np.random.default_rng(0).normal(size=(2, 3))
    for dtype in (np.float16, np.float32):
        layer = Layer(weight.astype(dtype), np.zeros(2, dtype), "linear")
        assert (layer.weight.astype(dtype) == weight.astype(dtype)).all()
        assert layer.weight.dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_weights_that_are_not_finite_are_named(bad, where):
    weight, bias = np.ones((2, 3)), np.ones(2)
    (weight if where == "weight" else bias)[-1] = bad
    with pytest.raises(NetworkError, match=rf"{where} .*\(1,.*{bad}"):
        Layer(weight, bias)


def test_merged_weights_that_overflow_are_refused():
    huge = Layer(np.full((1, 1), 1e200), np.zeros(1), "linear")
    with pytest.raises(NetworkError, match="not finite"):
        Network((huge, huge))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layer(np.ones(3), np.ones(3)), "shape"),
        (lambda: Layer(np.ones((2, 3)), np.ones(3)), "shape"),
        (lambda: Layer(np.ones((2, 3)), np.ones(2), "tanh"), "tanh"),
        (lambda: Network(()), "at least one layer"),
        (lambda: Network.from_arrays([np.ones((2, 3))], []), "1 weights but 0 biases"),
        (
            lambda: Network.from_arrays([np.ones((2, 3)), np.ones((1, 4))], [np.ones(2), [0.0]]),
            "layer 1 takes 4 inputs but layer 0 gives 2",
        ),
    ],
)
def test_what_is_not_a_network_is_refused(make, message):
    with pytest.raises(NetworkError, match=message):
        make()


def test_forward_takes_any_leading_axes_and_refuses_another_width():
    network = Network.from_arrays([[[1.0, 2.0]]], [[0.5]])
    assert network.forward([1.0, 1.0]).shape == (1,)
    assert network.forward(np.ones((4, 3, 2))).shape == (4, 3, 1)
    with pytest.raises(ValueError, match="takes 2 inputs"):
        network.forward(np.ones((2, 3)))


def test_check_vector():
    assert check_vector([1, 2], "state").dtype == np.float64
    with pytest.raises(ValueError, match=r"state\[1\] is nan"):
        check_vector([0.0, np.nan], "state")
    with pytest.raises(ValueError, match="one dimension"):
        check_vector([[0.0]], "state")


class TestFromOmlt:
    @pytest.mark.parametrize("input_size", [[3], [1, 3]])
    def test_layers_and_scaling(self, input_size):
        rng = np.random.default_rng(3)
        layers = random_layers(rng, [3, 5, 4, 2], ["relu", "linear", "linear"])
        many = len(input_size) == 2
        scaling = OffsetScaling(
            offset_inputs={(0, i) if many else i: v for i, v in enumerate([1.0, -2.0, 0.5])},
            factor_inputs={(0, i) if many else i: v for i, v in enumerate([2.0, 0.1, 3.0])},
            offset_outputs={(0, i) if many else i: v for i, v in enumerate([10.0, -1.0])},
            factor_outputs={(0, i) if many else i: v for i, v in enumerate([4.0, 0.5])},
        )
        network = read_omlt(omlt_definition(layers, scaling, input_size))
        for x in rng.normal(size=(10, 3)):
            scaled = (x - [1.0, -2.0, 0.5]) / [2.0, 0.1, 3.0]
            expected = evaluate(layers, scaled) * [4.0, 0.5] + [10.0, -1.0]
            np.testing.assert_allclose(network.forward(x), expected, rtol=1e-9)

    def test_scaling_that_is_not_affine_is_refused(self):
        class Squares(OffsetScaling):
            def get_scaled_input_expressions(self, input_vars):
                return {k: v * v for k, v in input_vars.items()}

        layers = random_layers(np.random.default_rng(0), [2, 1], ["linear"])
        scaling = Squares([0, 0], [1, 1], [0], [1])
        with pytest.raises(NetworkError, match="not affine"):
            read_omlt(omlt_definition(layers, scaling))

    def test_another_activation_is_refused(self):
        definition = omlt_definition(random_layers(np.random.default_rng(0), [2, 1], ["linear"]))
        list(definition.layers)[1].activation = "sigmoid"
        with pytest.raises(NetworkError, match=r"layer 1 .*DenseLayer.*sigmoid"):
            read_omlt(definition)

    def test_two_branches_are_not_taken_for_a_chain(self):
        definition = NetworkDefinition()
        entry = InputLayer([2])
        definition.add_layer(entry)
        for _ in range(2):
            dense = DenseLayer([2], [2], np.eye(2), np.zeros(2))
            definition.add_layer(dense)
            definition.add_edge(entry, dense)
        with pytest.raises(NetworkError, match="branches"):
            read_omlt(definition)

    def test_a_layer_over_the_rows_of_a_matrix_is_refused(self):
        layers = random_layers(np.random.default_rng(0), [3, 2], ["linear"])
        with pytest.raises(NetworkError, match=r"\[4, 3\]"):
            read_omlt(omlt_definition(layers, input_size=[4, 3]))

    def test_an_empty_definition_is_refused(self):
        with pytest.raises(NetworkError, match="no input layer"):
            read_omlt(NetworkDefinition())
