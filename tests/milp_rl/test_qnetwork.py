import copy
import json
import logging
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omlt.neuralnet import NetworkDefinition
from omlt.neuralnet.layer import DenseLayer, InputLayer
from onnx import numpy_helper
from torch import nn

from milp_rl import qnetwork
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.onnx_reader import read_metadata, read_onnx
from milp_rl.qnetwork import QNetwork, export_onnx, to_network


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Q-network and its file."""
    network = QNetwork(4, 6, generator=seeded())
    path = tmp_path_factory.mktemp("onnx") / "q.onnx"
    network.to_onnx(path)
    return network, path


class TestQNetwork:
    def test_shapes_and_order_of_inputs(self):
        network = QNetwork(2, 3, (5,), generator=seeded())
        state, action = torch.randn(7, 2), torch.randint(0, 2, (7, 3))
        expected = network(torch.cat([action.float(), state], dim=-1))
        assert expected.shape == (7, 1)
        torch.testing.assert_close(network.q(state, action), expected[:, 0])

    def test_one_state_with_many_actions(self):
        network = QNetwork(2, 3, generator=seeded())
        state, actions = torch.randn(2), torch.eye(3, dtype=torch.int8)
        values = network.q(state, actions)
        assert values.shape == (3,)
        torch.testing.assert_close(values[1], network.q(state, actions[1]))
        assert network.q(torch.randn(5, 1, 2), actions).shape == (5, 3)

    def test_wrong_widths_are_refused(self):
        network = QNetwork(2, 3, generator=seeded())
        with pytest.raises(ValueError, match=r"state has shape \(3,\).*must have 2"):
            network.q(torch.zeros(3), torch.zeros(3))
        with pytest.raises(ValueError, match=r"action has shape \(4, 2\).*must have 3"):
            network.q(torch.zeros(2), torch.zeros(4, 2))

    def test_without_state_and_without_hidden_layer(self):
        network = QNetwork(0, 3, (), generator=seeded())
        linear = network.layers[0]
        value = network.q(torch.zeros(0), torch.tensor([1, 0, 1]))
        torch.testing.assert_close(value, linear.weight[0, [0, 2]].sum() + linear.bias[0])

    def test_the_generator_alone_decides_the_weights(self):
        torch.manual_seed(0)
        first = QNetwork(2, 3, generator=seeded(5)).state_dict()
        before = torch.get_rng_state()
        second = QNetwork(2, 3, generator=seeded(5)).state_dict()
        other = QNetwork(2, 3, generator=seeded(6)).state_dict()
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert not any(torch.equal(first[k], other[k]) for k in first)

    def test_the_weights_are_distributed_as_torch_draws_them(self):
        torch.manual_seed(3)
        network = QNetwork(20, 30, (40,))
        torch.manual_seed(3)
        reference = [nn.Linear(50, 40), nn.Linear(40, 1)]
        for linear, expected in zip(network.layers[::2], reference, strict=True):
            assert torch.equal(linear.weight, expected.weight)
            assert torch.equal(linear.bias, expected.bias)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((-1, 3), ValueError, "state_dim must be at least 0, got -1"),
            ((2, 0), ValueError, "action_dim must be at least 1, got 0"),
            ((2, 3, (4, 0)), ValueError, "hidden must be at least 1, got 0"),
            ((2, 1.5), TypeError, "float"),
            ((True, 3), TypeError, "state_dim must be an integer"),
        ],
    )
    def test_dimensions_are_checked(self, arguments, error, message):
        with pytest.raises(error, match=message):
            QNetwork(*arguments)

    def test_gradients_reach_every_parameter(self):
        network = QNetwork(2, 3, (8,), generator=seeded())
        network.q(torch.randn(64, 2), torch.randint(0, 2, (64, 3))).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


class TestRoundTrip:
    def test_weights_come_back_bit_for_bit(self, exported):
        network, path = exported
        back = QNetwork.from_onnx(path)
        assert (back.state_dim, back.action_dim, back.hidden) == (4, 6, (16, 32))
        assert back.state_dict().keys() == network.state_dict().keys()
        for key, value in network.state_dict().items():
            assert value.dtype == back.state_dict()[key].dtype
            assert value.numpy().tobytes() == back.state_dict()[key].numpy().tobytes()

    def test_double_precision_and_no_hidden_layer(self, tmp_path):
        network = QNetwork(0, 3, (), generator=seeded()).double()
        network.to_onnx(tmp_path / "q.onnx")
        back = QNetwork.from_onnx(tmp_path / "q.onnx")
        assert back.layers[0].weight.dtype == torch.float64
        assert torch.equal(back.layers[0].weight, network.layers[0].weight)
        assert (back.state_dim, back.action_dim, back.hidden) == (0, 3, ())

    def test_reading_leaves_the_global_generator_alone(self, exported):
        before = torch.get_rng_state()
        QNetwork.from_onnx(exported[1])
        assert torch.equal(before, torch.get_rng_state())

    def test_dimensions_that_contradict_the_file(self, exported):
        _, path = exported
        assert QNetwork.from_onnx(path, state_dim=4, action_dim=6).state_dim == 4
        with pytest.raises(ValueError, match=r"state_dim is 4 in .*5 was asked for"):
            QNetwork.from_onnx(path, state_dim=5)
        with pytest.raises(ValueError, match="action_dim is 6 in"):
            QNetwork.from_onnx(path, action_dim=5)

    def test_file_without_dimensions(self, exported, tmp_path):
        network, path = exported
        bare = onnx.load(path)
        bare.ClearField("metadata_props")
        onnx.save(bare, tmp_path / "bare.onnx")
        with pytest.raises(ValueError, match="give state_dim or action_dim"):
            QNetwork.from_onnx(tmp_path / "bare.onnx")
        with pytest.raises(ValueError, match="do not add up to the 10 inputs"):
            QNetwork.from_onnx(tmp_path / "bare.onnx", state_dim=4, action_dim=5)
        with pytest.raises(ValueError, match="action_dim must be at least 1"):
            QNetwork.from_onnx(tmp_path / "bare.onnx", state_dim=10)
        for dims in ({"state_dim": 4}, {"action_dim": 6}):
            back = QNetwork.from_onnx(tmp_path / "bare.onnx", **dims)
            assert (back.state_dim, back.action_dim, back.hidden) == (4, 6, (16, 32))
            x = torch.randn(5, 10)
            torch.testing.assert_close(back(x), network(x))

    def test_dimensions_in_the_file_that_are_wrong(self, exported, tmp_path):
        changed = onnx.load(exported[1])
        for value, error in (("4.5", NetworkError), ("3", ValueError)):
            onnx.helper.set_model_props(changed, {"milp_rl.state_dim": value})
            onnx.save(changed, tmp_path / "changed.onnx")
            with pytest.raises(error, match="state_dim"):
                QNetwork.from_onnx(tmp_path / "changed.onnx", action_dim=6)

    def test_several_outputs_are_no_q_network(self, tmp_path):
        export_onnx(nn.Sequential(nn.Linear(3, 2)), tmp_path / "two.onnx")
        with pytest.raises(NetworkError, match=r"one output, .* has 2"):
            QNetwork.from_onnx(tmp_path / "two.onnx", state_dim=1)


class TestExport:
    def test_the_file_stands_alone_and_takes_any_batch(self, exported):
        network, path = exported
        assert [p.name for p in path.parent.iterdir()] == ["q.onnx"]
        rng = np.random.default_rng(0)
        for n in (1, 2, 333):
            x = rng.normal(size=(n, 10)).astype(np.float32)
            y = run(path, x)
            assert y.shape == (n, 1)
            assert np.abs(y - network(torch.from_numpy(x)).detach().numpy()).max() < 1e-5
            assert np.abs(y - read_onnx(path).forward(x)).max() < 1e-5

    def test_metadata(self, exported, tmp_path):
        _, path = exported
        stored = read_metadata(path)
        assert stored["milp_rl.state_dim"] == "4"
        assert stored["milp_rl.action_dim"] == "6"
        assert json.loads(stored["milp_rl.hidden"]) == [16, 32]
        network = QNetwork(1, 2, generator=seeded())
        export_onnx(network, tmp_path / "m.onnx", metadata={"problem": "clinic"})
        assert read_metadata(tmp_path / "m.onnx")["problem"] == "clinic"
        assert QNetwork.from_onnx(tmp_path / "m.onnx").action_dim == 2

    def test_the_same_network_gives_the_same_file_without_local_paths(self, exported, tmp_path):
        network, path = exported
        network.to_onnx(tmp_path / "again.onnx")
        data = path.read_bytes()
        assert (tmp_path / "again.onnx").read_bytes() == data
        assert b".py" not in data

    def test_export_is_quiet_and_leaves_logging_alone(self, tmp_path, capfd, caplog):
        logger = logging.getLogger("torch.onnx._internal.exporter")
        level = logger.level
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            QNetwork(1, 2, generator=seeded()).to_onnx(tmp_path / "q.onnx")
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("", "")
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert logger.level == level

    def test_the_module_stays_as_it_is(self, tmp_path):
        module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        module[0].eval()
        module(torch.randn(4, 3)).sum().backward()
        before, rng = copy.deepcopy(module), torch.get_rng_state()
        gradients = [p.grad.clone() for p in module.parameters()]
        export_onnx(module, tmp_path / "m.onnx")
        assert [m.training for m in module.modules()] == [m.training for m in before.modules()]
        for p, q, grad in zip(module.parameters(), before.parameters(), gradients, strict=True):
            assert torch.equal(p, q)
            assert torch.equal(p.grad, grad)
            assert p.requires_grad
        assert torch.equal(rng, torch.get_rng_state())

    def test_nested_sequential(self, tmp_path):
        shared = nn.ReLU()
        module = nn.Sequential(
            nn.Flatten(),
            nn.Sequential(nn.Linear(6, 5), shared, nn.Sequential(nn.Identity())),
            nn.Linear(5, 4, bias=False),
            shared,
            nn.Linear(4, 3),
            nn.Linear(3, 2),
            shared,
        )
        export_onnx(module, tmp_path / "m.onnx", n_inputs=6)
        x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
        expected = module(torch.from_numpy(x)).detach().numpy()
        assert np.abs(run(tmp_path / "m.onnx", x) - expected).max() < 1e-5
        assert np.abs(read_onnx(tmp_path / "m.onnx").forward(x) - expected).max() < 1e-5

    def test_large_outputs_are_compared_relative_to_their_size(self, tmp_path):
        network = QNetwork(10, 30, (64, 64), generator=seeded())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 10
        network.to_onnx(tmp_path / "q.onnx")
        x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
        expected = network(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(run(tmp_path / "q.onnx", x), expected, rtol=1e-3, atol=1e-3)

    def test_a_wrong_export_is_noticed_and_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "q.onnx"
        path.write_bytes(b"old")
        export = torch.onnx.export

        def corrupt(*args, **kwargs):
            program = export(*args, **kwargs)
            model = program.model_proto
            bias = numpy_helper.to_array(model.graph.initializer[-1]) + 1e-3
            model.graph.initializer[-1].CopyFrom(
                numpy_helper.from_array(bias, model.graph.initializer[-1].name)
            )

            class Program:
                model_proto = model

            return Program()

        monkeypatch.setattr(torch.onnx, "export", corrupt)
        with pytest.raises(NetworkError, match="onnxruntime and torch disagree"):
            QNetwork(1, 2, generator=seeded()).to_onnx(path)
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["q.onnx"]

    def test_a_wrong_reading_is_noticed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            qnetwork, "read_onnx", lambda _: Network.from_arrays([np.zeros((1, 3))], [[9.0]])
        )
        with pytest.raises(NetworkError, match="reader and torch disagree"):
            QNetwork(1, 2, generator=seeded()).to_onnx(tmp_path / "q.onnx")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (nn.Sequential(nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 1)), "Erf node '1/gelu"),
            (nn.Sequential(nn.Linear(3, 2)).half(), "torch.float16"),
            (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1).double()), "float32 and torch.float64"),
            (nn.Sequential(nn.ReLU()), "parameters are of"),
        ],
    )
    def test_what_cannot_be_exported(self, module, message, tmp_path):
        with pytest.raises(NetworkError, match=message):
            export_onnx(module, tmp_path / "m.onnx")
        assert not list(tmp_path.iterdir())

    def test_wrong_number_of_inputs(self, tmp_path):
        with pytest.raises(ValueError, match="n_inputs is 4, but the module takes 3"):
            export_onnx(nn.Linear(3, 1), tmp_path / "m.onnx", n_inputs=4)

    def test_weights_that_are_not_finite(self, tmp_path):
        network = QNetwork(1, 2, generator=seeded())
        with torch.no_grad():
            network.layers[2].weight[0, 1] = float("nan")
        with pytest.raises(NetworkError, match=r"'layers\.2' .*not finite"):
            network.to_onnx(tmp_path / "q.onnx")
        assert not list(tmp_path.iterdir())

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            export_onnx(nn.Linear(3, 1), tmp_path / "no" / "m.onnx")


class TestToNetwork:
    @settings(deadline=None)
    @given(data=st.data(), seed=st.integers(0, 2**31))
    def test_same_values_as_torch(self, data, seed):
        torch.manual_seed(seed)
        widths = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=5), label="widths")
        modules = []
        extras = st.lists(
            st.sampled_from([nn.ReLU, nn.Identity, nn.Flatten, nn.Dropout]), max_size=3
        )
        for i, width in enumerate(widths):
            modules += [kind() for kind in data.draw(extras, label="between")]
            if i + 1 < len(widths):
                linear = nn.Linear(width, widths[i + 1], bias=data.draw(st.booleans()))
                modules.append(linear if data.draw(st.booleans()) else nn.Sequential(linear))
        module = nn.Sequential(*modules).eval().double()
        x = torch.randn(9, widths[0], dtype=torch.float64)
        np.testing.assert_allclose(
            to_network(module).forward(x.numpy()), module(x).detach(), atol=1e-12
        )

    def test_weights_are_exact_and_later_training_does_not_change_them(self):
        for dtype in (torch.float32, torch.float64):
            network = QNetwork(2, 3, generator=seeded()).to(dtype)
            converted = to_network(network)
            weight = network.layers[0].weight.detach().clone()
            with torch.no_grad():
                network.layers[0].weight.zero_()
            assert (converted.layers[0].weight == weight.numpy()).all()

    def test_all_sources_give_the_same_values(self, exported):
        network, path = exported
        converted = to_network(network)
        assert to_network(converted) is converted
        definition = NetworkDefinition()
        before = InputLayer([10])
        definition.add_layer(before)
        for layer in converted.layers:
            dense = DenseLayer(
                before.output_size,
                [len(layer.bias)],
                layer.weight.T,
                layer.bias,
                activation=layer.activation,
            )
            definition.add_layer(dense)
            definition.add_edge(before, dense)
            before = dense
        x = np.random.default_rng(0).normal(size=(20, 10))
        for source in (path, str(path), path.read_bytes(), onnx.load(path), definition):
            assert (to_network(source).forward(x) == converted.forward(x)).all()

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)), "Erf node '1/gelu"),
            (
                nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
                r"layer '0\.1' is a BatchNorm1d.*training mode; call \.eval\(\)",
            ),
            (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), "'1' is a Dropout.*training mode"),
            (nn.LSTM(2, 2), "the LSTM"),
            (nn.Sequential(), "the Sequential runs with; give it n_inputs="),
            (nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 1)), "layer 1 takes 2 inputs"),
        ],
    )
    def test_unsupported_modules_are_named(self, module, message):
        with pytest.raises(NetworkError, match=message):
            to_network(module)

    def test_a_subclass_with_its_own_forward_is_not_mistaken(self):
        class Higher(QNetwork):
            def forward(self, x):
                return 2 + super().forward(x)

        module, x = Higher(1, 2, generator=seeded()), torch.randn(5, 3)
        np.testing.assert_allclose(
            to_network(module).forward(x.numpy()), module(x).detach(), atol=1e-6
        )

    def test_hooks_are_part_of_what_a_module_computes(self):
        module, x = nn.Sequential(nn.Linear(2, 2)), torch.randn(5, 2)
        module[0].register_forward_hook(lambda _module, _inputs, output: output + 1)
        np.testing.assert_allclose(
            to_network(module).forward(x.numpy()), module(x).detach(), atol=1e-6
        )

    def test_parametrized_layers(self):
        module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
        x = torch.randn(5, 3)
        np.testing.assert_allclose(
            to_network(module).forward(x.numpy()), module(x).detach(), atol=1e-6
        )

    def test_weights_that_are_not_finite_are_named(self):
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        with torch.no_grad():
            module[2].bias[0] = float("inf")
        with pytest.raises(NetworkError, match=r"layer '2' \(Linear\): .*bias.*inf"):
            to_network(module)

    def test_other_types(self):
        with pytest.raises(TypeError, match="got list"):
            to_network([1, 2])

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            to_network(tmp_path / "no.onnx")

    def test_a_file_is_converted_without_torch(self, exported):
        code = (
            "import sys; from milp_rl.formulations.networks.conversion import to_network;"
            "assert to_network(to_network(sys.argv[1])).n_inputs == 10;"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, str(exported[1])], check=True)
