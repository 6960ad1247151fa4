"""Q(state, action) of ONNX models: what is an input, what is refused, anything in the state."""

import copy
import pickle
import threading

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from milp_rl.formulations.networks.action_value import NetworkValue
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.formulations.networks.onnx_value import onnx_value
from tests.formulations.networks.drawn import BY_STATE, Sketch, agree, drawn_value
from tests.formulations.networks.test_onnx_reader import torch_onnx

RNG = np.random.default_rng(4)


def critic(outputs=1):
    """A critic of two inputs, concatenated as they come."""
    s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
    joined = s.add("Concat", ["obs", "act"], 8, axis=1)
    return s.model(s.dense(s.relu(s.dense(joined)), outputs))


def renamed(model, names):
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value, name in zip(made.graph.input, names, strict=True):
        for node in made.graph.node:
            for i, given in enumerate(node.input):
                if given == value.name:
                    node.input[i] = name
        value.name = name
    return made


class TestInputs:
    @pytest.mark.parametrize(
        "names",
        [
            ("obs", "act"),
            ("observation", "action"),
            ("state", "action"),
            ("x_state", "x_action"),
            ("s", "a"),
            ("States", "Actions"),
            ("obs.1", "onnx::act"),
            ("critic/inputState", "critic/inputAction"),
            ("obs", "x2"),
            ("x1", "act"),
        ],
    )
    def test_names_say_what_is_the_action(self, names):
        model = critic()
        expected = read_onnx(model)
        state, action = RNG.normal(size=3), RNG.normal(size=5)
        named = read_onnx(renamed(model, names))
        x = np.concatenate([action, state])
        assert named.forward(x) == pytest.approx(expected.forward(x), abs=1e-12)
        turned = read_onnx(model, inputs=("action", "state"))
        other = turned.forward(np.concatenate([state, action]))
        assert other == pytest.approx(expected.forward(x), abs=1e-12)

    @pytest.mark.parametrize("names", [("x1", "x2"), ("obs", "state"), ("a", "action"), ("p", "v")])
    def test_names_that_do_not_are_asked_for(self, names):
        model = renamed(critic(), names)
        with pytest.raises(NetworkError, match=r"'.*' of shape \(\?, 3\), .*inputs=\(\"action\""):
            read_onnx(model)
        expected = read_onnx(critic()).forward(np.arange(8.0))
        for inputs in (("state", "action"), {"action": names[1], "state": names[0]}):
            found = read_onnx(model, inputs=inputs).forward(np.arange(8.0))
            assert found == pytest.approx(expected, abs=1e-12)

    def test_the_number_of_actions_may_tell_what_names_do_not(self):
        model = renamed(critic(), ("onnx::Concat_0", "onnx::Concat_1"))
        x = np.arange(8.0)
        expected = read_onnx(critic()).forward(x)
        assert onnx_value(model, 5).at_state(x[5:]).forward(x[:5]) == pytest.approx(expected)
        with pytest.raises(NetworkError, match="several inputs"):
            onnx_value(model, 4)

    def test_wrong_names_are_refused(self):
        with pytest.raises(NetworkError, match="no input 'b'"):
            read_onnx(critic(), inputs={"action": "b", "state": "obs"})
        with pytest.raises(NetworkError, match="leaves out 'obs'"):
            read_onnx(critic(), inputs={"action": "act"})
        with pytest.raises(ValueError, match="'action' and 'state'"):
            read_onnx(critic(), inputs=("action", "observation"))
        with pytest.raises(NetworkError, match="names 3 inputs"):
            read_onnx(critic(), inputs=("action", "state", "state"))

    def test_an_input_that_nothing_uses_is_no_input(self):
        model = critic()
        model.graph.input.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["b", 2]))
        assert read_onnx(model).n_inputs == 8

    def test_several_inputs_of_one_part(self):
        s = Sketch(np.random.default_rng(0), {"goal": 2, "act": 3, "obs": 4})
        h = s.add("Concat", ["act", "goal", "obs"], 9, axis=1)
        model = s.model(s.dense(s.relu(s.dense(h)), 1))
        inputs = {"action": "act", "state": ("goal", "obs")}
        by_role = read_onnx(model, inputs=("state", "action", "state"))
        x = RNG.normal(size=9)
        assert by_role.forward(x) == read_onnx(model, inputs=inputs).forward(x)
        value = onnx_value(model, 3, inputs=inputs)
        assert value.state_dim == 6
        assert value.at_state(x[3:]).forward(x[:3]) == pytest.approx(by_role.forward(x))

    @pytest.mark.parametrize("smooth", [False, True])
    def test_a_single_input_of_state_and_action(self, smooth):
        s = Sketch(np.random.default_rng(1), {"x": 8})
        cut = [s.constant([i], np.int64) for i in (0, 3, 8, 1)]
        state = s.add("Slice", ["x", cut[0], cut[1], cut[3]], 3)
        action = s.add("Slice", ["x", cut[1], cut[2], cut[3]], 5)
        own = s.add("Tanh" if smooth else "Relu", s.dense(state, 4))
        model = s.model(s.dense(s.relu(s.add("Add", [own, s.dense(action, 4)])), 1))
        value = onnx_value(model, 5, inputs=("state", "action"))
        assert isinstance(value, NetworkValue) != smooth
        state, action = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 5))
        session = onnx.reference.ReferenceEvaluator(model)
        (expected,) = session.run(
            None, {"x": np.concatenate([state, action], axis=1).astype(np.float32)}
        )
        agree(value, value.values(state, action), expected[:, 0])
        with pytest.raises(NetworkError, match="to_action_value"):
            read_onnx(model, inputs=("state", "action"))
        if smooth:  # [action, state] cuts where the graph does not
            with pytest.raises(NetworkError, match="Tanh"):
                onnx_value(model, 5)

    def test_widths_that_do_not_fit(self):
        for smooth in (False, True):
            model = critic_with_encoder() if smooth else critic()
            with pytest.raises(NetworkError, match=r"'act' .*4 actions"):
                onnx_value(model, 4)
            with pytest.raises(NetworkError, match="2 state features"):
                onnx_value(model, 5, state_dim=2)
        with pytest.raises(ValueError, match="at least 1"):
            onnx_value(critic(), 0)


def critic_with_encoder(outputs=1):
    s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
    joined = s.add("Concat", [s.add("Tanh", s.dense("obs", 4)), "act"], 9, axis=1)
    return s.model(s.dense(s.relu(s.dense(joined)), outputs))


class TestOutputs:
    @pytest.mark.parametrize("make", [critic, critic_with_encoder])
    def test_an_entry_of_the_output(self, make):
        model = make(outputs=3)
        with pytest.raises(NetworkError, match="gives 3; choose one with output="):
            onnx_value(model, 5)
        state, action = RNG.normal(size=3), RNG.normal(size=5)
        feed = {"obs": state[None].astype("f4"), "act": action[None].astype("f4")}
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        for column in range(3):
            for output in (column, ("q", column), (0, column)):
                value = onnx_value(model, 5, output=output)
                assert value.at_state(state).forward(action) == pytest.approx(
                    expected[0, column], abs=1e-5
                )
        with pytest.raises(NetworkError, match="no output 3"):
            onnx_value(model, 5, output=3)

    def test_one_of_several_outputs(self):
        model = critic()
        extra = onnx.ValueInfoProto(name=model.graph.node[0].output[0])
        extra.type.tensor_type.elem_type = TensorProto.FLOAT
        extra.type.tensor_type.shape.SetInParent()
        model.graph.output.append(extra)
        with pytest.raises(NetworkError, match=r"several outputs: 'q', .*choose one with output="):
            read_onnx(model)
        assert read_onnx(model, output=0).n_outputs == 1
        assert read_onnx(model, output="q").n_outputs == 1
        assert read_onnx(model, output=1).n_outputs == 8
        assert read_onnx(model, output=(1, 2)).n_outputs == 1
        for output in ("p", 2):
            with pytest.raises(NetworkError, match="there is no output"):
                read_onnx(model, output=output)

    @pytest.mark.parametrize(
        ("op", "link"),
        [("Sigmoid", "sigmoid"), ("Tanh", "tanh"), ("Exp", "exp"), ("Softplus", "softplus")],
    )
    @pytest.mark.parametrize("form", [lambda s, y: y, lambda s, y: s.add("Flatten", y)])
    def test_a_monotone_operator_at_the_end_is_the_link(self, op, link, form):
        s = Sketch(np.random.default_rng(0), {"act": 5, "obs": 3})
        joined = s.add("Concat", ["act", "obs"], 8, axis=1)
        model = s.model(form(s, s.add(op, s.dense(s.relu(s.dense(joined)), 1))))
        network = read_onnx(model)
        assert network.link == link
        assert onnx_value(model, 5).link == link
        x = RNG.normal(size=(1, 8))
        feed = {"act": x[:, :5].astype("f4"), "obs": x[:, 5:].astype("f4")}
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        agree(network, network.forward(x), expected.reshape(1, 1))

    def test_a_monotone_operator_that_is_used_otherwise_is_no_link(self):
        s = Sketch(np.random.default_rng(0), {"x": 5})
        squashed = s.add("Sigmoid", s.dense("x", 1))
        with pytest.raises(NetworkError, match="Sigmoid"):
            read_onnx(s.model(s.add("Add", [squashed, s.dense("x", 1)])))
        model = s.model(squashed)
        model.graph.node.append(helper.make_node("Neg", [squashed], ["other"]))
        assert read_onnx(model).link == "sigmoid"  # nothing that is read uses it
        with pytest.raises(NetworkError, match="Softmax"):
            read_onnx(s.model(s.add("Softmax", s.dense("x", 2))))


class TestRefusals:
    def test_only_what_is_between_action_and_output_is_refused(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        state = s.add("Tanh", s.dense("obs", 4))
        h = s.add("Sigmoid", s.add("Add", [s.dense("act", 4), state]))
        h = s.add("Erf", s.dense(h, 4))
        square = s.add("Mul", [h, h])
        model = s.model(s.dense(square, 1))
        for node, name in zip(
            [n for n in model.graph.node if n.op_type in ("Tanh", "Sigmoid", "Erf", "Mul")],
            ("encoder", "first", "second", "square"),
            strict=True,
        ):
            node.name = name
        with pytest.raises(NetworkError, match="3 nodes") as raised:
            onnx_value(model, 5)
        for name in ("Sigmoid node 'first'", "Erf node 'second'", "Mul node 'square'"):
            assert name in str(raised.value)
        assert "encoder" not in str(raised.value)

    def test_an_output_that_does_not_depend_on_the_action(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        nothing = s.add("Mul", ["act", s.constant(np.zeros(5))])
        pooled = s.add("ReduceSum", [nothing, s.constant([1], np.int64)], 1)
        model = s.model(s.add("Add", [pooled, s.add("Tanh", s.dense("obs", 1))]))
        with pytest.raises(NetworkError, match="does not depend on the action"):
            onnx_value(model, 5)

    def test_choices_by_the_state_that_jump_in_the_action(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        bound = s.add("Tanh", s.dense("obs", 4))
        z = s.dense("act", 4)
        above = s.add("Greater", [z, bound], 4)
        model = s.model(s.dense(s.add("Where", [above, z, bound], 4), 1))
        value = onnx_value(model, 5)
        states, actions = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 5))
        feed = {"obs": states.astype("f4"), "act": actions.astype("f4")}
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        agree(value, value.values(states, actions), expected[:, 0])
        jumps = s.add("Where", [above, z, s.constant(np.zeros(4))], 4)
        with pytest.raises(NetworkError, match="jump"):
            onnx_value(s.model(s.dense(jumps, 1)), 5)

    def test_random_numbers(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        noise = s.add("RandomNormalLike", "obs", 3)
        joined = s.add("Concat", [s.add("Tanh", noise), "act"], 8, axis=1)
        with pytest.raises(NetworkError, match=r"RandomNormalLike.*random"):
            onnx_value(s.model(s.dense(s.relu(s.dense(joined)), 1)), 5)


class TestStates:
    @pytest.mark.parametrize("kind", BY_STATE)
    def test_what_no_state_changes_is_the_same_array(self, kind):
        value, _ = drawn_value(kind, np.random.default_rng(3))
        one, two = (
            value.at_states(RNG.normal(size=(3, 3))),
            value.at_states(RNG.normal(size=(2, 3))),
        )
        for a, b in zip(one.layers, two.layers, strict=True):
            assert [k for k, _ in a.inputs] == [k for k, _ in b.inputs]
            assert a.width == b.width
            for (_, v), (_, w) in zip(a.inputs, b.inputs, strict=True):
                assert (v is w) == (v.ndim == 2)

    @pytest.mark.parametrize("kind", ["deep state", "gated", "two inputs"])
    def test_copies_give_the_same(self, kind):
        value, _ = drawn_value(kind, np.random.default_rng(5))
        states, actions = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
        expected = value.values(states, actions)
        for other in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
            assert (other.values(states, actions) == expected).all()
            assert (other.n_actions, other.state_dim, other.link) == (5, 3, value.link)
        assert (value.negated().values(states, actions) == -expected).all()

    def test_threads_do_not_disturb_each_other(self):
        value, _ = drawn_value("gated", np.random.default_rng(5))
        states, actions = RNG.normal(size=(40, 3)), RNG.normal(size=(40, 5))
        expected = value.values(states, actions)
        found = {}

        def run(i):
            found[i] = [value.at_state(states[k]).forward(actions[k])[0] for k in range(40)]

        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(4):
            np.testing.assert_allclose(found[i], expected, atol=1e-12)

    def test_graphs_of_one_sample_are_run_one_by_one(self):
        s = Sketch(np.random.default_rng(0), {"obs": 6, "act": 5})
        tokens = s.add("Reshape", ["obs", s.constant([1, 3, 2], np.int64)], 2)
        scores = s.add("MatMul", [tokens, s.add("Transpose", tokens, 3, perm=[0, 2, 1])], 3)
        mixed = s.add("MatMul", [s.add("Softmax", scores, axis=-1), tokens], 2)
        h = s.add("Reshape", [mixed, s.constant([1, 6], np.int64)], 6)
        joined = s.add("Concat", [h, "act"], 11, axis=1)
        model = s.model(s.dense(s.relu(s.dense(joined)), 1), {"obs": (1, 6), "act": (1, 5)})
        value = onnx_value(model, 5)
        states, actions = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 5))
        session = onnx.reference.ReferenceEvaluator(model)
        expected = [
            session.run(None, {"obs": a[None].astype("f4"), "act": b[None].astype("f4")})[0][0, 0]
            for a, b in zip(states, actions, strict=True)
        ]
        agree(value, value.values(states, actions), expected)
        assert len(value.at_states(states)) == 4

    @pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
    def test_a_batch_that_mixes_its_samples_is_run_one_by_one(self, op):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        h = s.add("Tanh", s.dense("obs", 4))
        centred = s.add("Sub", [h, s.add(op, [h, s.constant([0], np.int64)])])
        joined = s.add("Concat", [s.add("Sigmoid", centred), "act"], 9, axis=1)
        value = onnx_value(s.model(s.dense(s.relu(s.dense(joined)), 1)), 5)
        states, actions = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
        alone = [value.at_state(a).forward(b)[0] for a, b in zip(states, actions, strict=True)]
        np.testing.assert_allclose(value.values(states, actions), alone, atol=1e-12)

    @pytest.mark.parametrize("op", ["Softplus", "Elu", "Sin", "Mish", "Tanh", "Sigmoid"])
    def test_a_state_is_worth_the_same_whatever_states_are_beside_it(self, op):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        rare = s.relu(s.add("Sub", ["obs", s.constant(np.full(3, 3.0))]))  # at few states only
        joined = s.add("Concat", [s.add(op, rare), "act"], 8, axis=1)
        value = onnx_value(s.model(s.dense(s.relu(s.dense(joined)), 1)), 5)
        states, action = 2 * RNG.normal(size=(300, 3)), np.ones(5)
        alone = [value.at_state(state).forward(action)[0] for state in states]
        for size in (2, 5):
            for i in range(0, len(states) - size, size):
                networks = value.at_states(states[i : i + size])
                together = [networks.at(k).forward(action)[0] for k in range(size)]
                assert together == alone[i : i + size]

    def test_what_is_off_at_most_states_is_not_left_out(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        far = s.relu(s.add("Sub", [s.add("Abs", "obs"), s.constant(np.full(3, 50.0))]))
        gate = s.add("Tanh", s.add("MatMul", [far, s.normal(3, 5)], 5))
        model = s.model(s.dense(s.relu(s.dense(s.add("Mul", ["act", gate]))), 1))
        value = onnx_value(model, 5)
        states, actions = 60 * RNG.normal(size=(9, 3)), RNG.normal(size=(9, 5))
        feed = {"obs": states.astype("f4"), "act": actions.astype("f4")}
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        agree(value, value.values(states, actions), expected[:, 0])

    def test_graphs_within_the_graph_take_what_is_outside(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3, "act": 5})
        h, weight = s.add("Tanh", s.dense("obs", 4)), s.normal(4, 4)
        total = s.add("ReduceSum", "obs", 1, keepdims=0)
        above = s.add("Greater", [total, s.constant(0.0)])

        def branch(op, inputs, name):
            value = onnx.ValueInfoProto(name=name)
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            return helper.make_graph([helper.make_node(op, inputs, [name])], name, [], [value])

        own = s.add(
            "If",
            above,
            4,
            then_branch=branch("MatMul", [h, weight], "yes"),
            else_branch=branch("Neg", [h], "no"),
        )
        joined = s.add("Concat", [own, "act"], 9, axis=1)
        q = s.dense(s.relu(s.dense(joined, 4)), 1)
        model = s.model(q)
        value = onnx_value(model, 5)
        states, actions = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 5))
        session = onnx.reference.ReferenceEvaluator(model)
        expected = [
            session.run(None, {"obs": a[None].astype("f4"), "act": b[None].astype("f4")})[0][0, 0]
            for a, b in zip(states, actions, strict=True)
        ]
        agree(value, value.values(states, actions), expected)

    def test_integer_states_look_up(self):
        graph = helper.make_graph(
            [
                helper.make_node("Gather", ["table", "token"], ["e3"], axis=0),
                helper.make_node("Flatten", ["e3"], ["e"]),
                helper.make_node("Tanh", ["e"], ["t"]),
                helper.make_node("MatMul", ["action", "w"], ["z"]),
                helper.make_node("Add", ["z", "t"], ["y"]),
                helper.make_node("Relu", ["y"], ["r"]),
                helper.make_node("ReduceSum", ["r", "axis"], ["q"]),
            ],
            "g",
            [
                helper.make_tensor_value_info("token", TensorProto.INT64, ["b", 2]),
                helper.make_tensor_value_info("action", TensorProto.FLOAT, ["b", 3]),
            ],
            [helper.make_tensor_value_info("q", TensorProto.FLOAT, ["b", 1])],
            [
                numpy_helper.from_array(RNG.normal(size=(4, 3)).astype("f4"), "table"),
                numpy_helper.from_array(RNG.normal(size=(3, 6)).astype("f4"), "w"),
                numpy_helper.from_array(np.array([1]), "axis"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        value = onnx_value(model, 3, inputs=("state", "action"))
        tokens, actions = RNG.integers(0, 4, (6, 2)), RNG.normal(size=(6, 3))
        feed = {"token": tokens, "action": actions.astype("f4")}
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        agree(value, value.values(tokens.astype(float), actions), expected[:, 0])

    def test_images_of_the_state_do_not_become_neurons(self):
        s = Sketch(np.random.default_rng(0), {"obs": 3 * 64 * 64, "act": 5})
        kernel = s.normal(16, 3, 8, 8, scale=0.05)
        h = s.relu(s.add("Conv", ["obs", kernel], strides=[2, 2]))
        h = s.relu(s.add("Conv", [h, s.normal(32, 16, 4, 4, scale=0.05)], strides=[2, 2]))
        h = s.add("Flatten", s.add("GlobalAveragePool", h), 32)
        joined = s.add("Concat", [h, "act"], 37, axis=1)
        q = s.dense(s.relu(s.dense(joined, 8)), 1)
        model = s.model(q, {"obs": ("b", 3, 64, 64)})
        value = onnx_value(model, 5)
        assert value.state_dim == 3 * 64 * 64
        states, actions = RNG.random(size=(2, value.state_dim)), RNG.normal(size=(2, 5))
        assert [layer.width for layer in value.at_states(states).layers] == [8, 1]
        feed = {
            "obs": states.reshape(2, 3, 64, 64).astype("f4"),
            "act": actions.astype("f4"),
        }
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
        agree(value, value.values(states, actions), expected[:, 0])


class Hyper(nn.Module):
    """Weights of the action's layer are made of the state."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.LayerNorm(16))
        self.weights, self.biases, self.out = nn.Linear(16, 40), nn.Linear(16, 8), nn.Linear(8, 1)

    def forward(self, obs, act):
        h = self.encoder(obs)
        z = torch.bmm(act.unsqueeze(1), self.weights(h).reshape(-1, 5, 8)).squeeze(1)
        return self.out(functional.relu(z + self.biases(h)))


class Attention(nn.Module):
    """Features of the state attend to each other."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.out = nn.Linear(13, 8), nn.Linear(8, 1)

    def forward(self, obs, act):
        tokens = self.embed(obs.unsqueeze(-1))
        h = self.attend(tokens, tokens, tokens)[0].mean(1)
        return self.out(functional.leaky_relu(self.hidden(torch.cat([h, act], -1)))).squeeze(-1)


class Recurrent(nn.Module):
    """The state is a history."""

    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(2, 8, batch_first=True)
        self.hidden, self.out = nn.Linear(13, 8), nn.Linear(8, 1)

    def forward(self, obs, act):
        h = self.memory(obs.reshape(-1, 2, 2))[0][:, -1]
        return self.out(functional.relu6(self.hidden(torch.cat([h, act], -1))))


class Sorted(nn.Module):
    """The state says in which order neurons of the action are weighed."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(5, 8), nn.Linear(4, 1)

    def forward(self, obs, act):
        h = functional.relu(self.hidden(act))
        return self.out(torch.gather(h, 1, torch.argsort(obs, 1)))


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("module", [Hyper, Attention, Recurrent, Sorted])
def test_torch_exports(module, dynamo):
    torch.manual_seed(0)
    own = module().eval()
    shapes = (torch.randn(2, 4), torch.randn(2, 5))
    data = torch_onnx(own, shapes, dynamo=dynamo, opset=18, names=["obs", "act"])
    value = onnx_value(data, 5)
    states, actions = RNG.normal(size=(6, 4)), RNG.integers(0, 2, (6, 5)).astype(float)
    with torch.no_grad():
        expected = own(torch.tensor(states).float(), torch.tensor(actions).float()).reshape(-1)
    agree(value, value.values(states, actions), expected.numpy())
