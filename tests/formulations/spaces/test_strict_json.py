"""JSON of wrong types and sizes is refused, never read as something else."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import milp_rl as mr
from milp_rl.formulations.spaces.base import ActionSpace

VALID = {
    "top k": mr.BudgetTopK(4, 2).to_dict(),
    "exactly": mr.BudgetTopK(3, 2, exactly=True, costs=[1, 2, 3.5], budget=4.5).to_dict(),
    "capacity": mr.Capacity([1, 2, 2.5], [3, 2]).to_dict(),
    "scheduling": mr.Scheduling([[1, 0], [1, 1]], [[1, 1], [0, 1], [1, 0]], [1, 2, 1], 2).to_dict(),
    "visits": mr.Scheduling(
        [[1, 0], [1, 1]], [[1, 1], [0, 1]], durations=[1, 2], preferred=[[1, 0], [0, 0]]
    ).to_dict(),
    "routing": {
        "type": "Routing",
        "directed": False,
        "labels": ["a", 1, ["b", 2]],
        "edges": [["a", 1], [1, ["b", 2]]],
        "depot": "a",
        "max_length": 4,
        "budget": 2,
        "nodes": [1, ["b", 2]],
    },
    "timed routing": {
        "type": "Routing",
        "directed": True,
        "labels": ["a", 1, ["b", 2]],
        "edges": [["a", 1], [1, ["b", 2]]],
        "depot": "a",
        "max_length": 4.5,
        "budget": 2,
        "nodes": [1, ["b", 2]],
        "weight": "time",
        "lengths": [1.5, 2.0],
        "service_times": [0.5, 0.0],
    },
    "factored": mr.FactoredValidity(
        {"a": ["x", "y"], "b": ["u", "v"]},
        allowed=[("x", "u"), ("y", "v")],
        n_decision_makers=2,
        caps={"a": {"x": 1}},
    ).to_dict(),
    "matching": mr.Matching([[1, 0, 1], [1, 1, 0]], 1, 2, left=["a", "b"]).to_dict(),
    "permutation": mr.Permutation(2, jobs=["a", "b"]).to_dict(),
    "precedence": mr.Precedence(3, [(0, 1), (2, 1)], names=["a", "b", "c"]).to_dict(),
    "simple path": {
        "type": "SimplePath",
        "labels": ["a", 1, ["b", 2]],
        "edges": [["a", 1], [1, ["b", 2]], ["a", ["b", 2]]],
        "source": "a",
        "target": ["b", 2],
    },
    "box": mr.Box([0, -1.5, 0], [1, 2, 1], matrix=[[1, 1, 0]], right=[2], binary=[2]).to_dict(),
    "intersection": (mr.BudgetTopK(3, 2) & mr.Capacity([1, 2, 3], [3])).to_dict(),
    "product": (mr.BudgetTopK(3, 2) * mr.Box([0.0], [1.0])).to_dict(),
}


def changed(name, **parameters):
    return json.loads(json.dumps({**VALID[name], **parameters}))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("top k", {"exactly": "no"}, "exactly must be true or false, got 'no'"),
        ("top k", {"exactly": 0}, "exactly must be true or false, got 0"),
        ("top k", {"exactly": None}, "exactly must be true or false"),
        ("top k", {"k": 2.7}, "k must be an integer, got 2.7"),
        ("top k", {"k": 2.0}, "k must be an integer, got 2.0"),
        ("top k", {"k": True}, "k must be an integer, got True"),
        ("top k", {"k": "2"}, "k must be an integer, got '2'"),
        ("top k", {"n_actions": 10**30}, "n_actions must be at most"),
        ("top k", {"n_actions": 10**12, "k": 1}, "n_actions must be at most"),
        ("exactly", {"costs": [1, True, 2]}, "costs holds True"),
        ("exactly", {"costs": [1, "2", 3]}, "costs holds '2'|every entry must be a number"),
        ("exactly", {"costs": [1, None, 3]}, "costs holds None"),
        ("exactly", {"costs": [1, [2], 3]}, "costs must"),
        ("exactly", {"costs": {"0": 1}}, "costs must"),
        ("exactly", {"costs": [1, 1e308, 1e308]}, r"costs\[1\] is 1e\+308"),
        ("exactly", {"costs": [1, 2, 10**400]}, "costs"),
        ("exactly", {"costs": [1, 2, 2**53 + 1]}, r"costs\[2\]"),
        ("exactly", {"budget": "3"}, "budget must be a number"),
        ("exactly", {"budget": True}, "budget must be a number"),
        ("exactly", {"budget": 1e300}, "budget must be finite"),
        ("capacity", {"costs": "123"}, "costs"),
        ("capacity", {"capacities": [1e308, 1e308]}, "capacities"),
        ("scheduling", {"needs": 1e300}, "needs must be an integer"),
        ("scheduling", {"needs": [1, 1, 10**300]}, r"needs\[2\] must be at most"),
        ("scheduling", {"needs": [1, 1.5, 1]}, r"needs\[1\] must be an integer, got 1.5"),
        ("scheduling", {"needs": [1, True, 1]}, r"needs\[1\] must be an integer, got True"),
        ("scheduling", {"budget": 1.0}, "budget must be an integer"),
        ("scheduling", {"worker_slots": [["1", "0"]]}, "worker_slots must be boolean"),
        ("scheduling", {"arm_slots": [[1, 2]] * 3}, "arm_slots must be boolean"),
        ("scheduling", {"arm_slots": [[1, 0], [1]]}, "arm_slots must"),
        ("visits", {"durations": [1, 1.5]}, r"durations\[1\] must be an integer, got 1.5"),
        ("visits", {"durations": 0}, "durations must be at least 1"),
        ("visits", {"needs": [1, 1]}, "give needs or durations"),
        ("visits", {"preferred": [[1, 2], [0, 0]]}, "preferred must be boolean"),
        ("routing", {"directed": "no"}, "directed must be true or false"),
        ("routing", {"max_length": 4.5}, "max_length must be an integer"),
        ("routing", {"max_length": False}, "max_length must be an integer"),
        ("routing", {"max_length": 10**20}, "max_length must be at most"),
        ("routing", {"labels": ["a", 1, 1.0, ["b", 2]]}, "labels are strings, integers"),
        ("routing", {"labels": ["a", 1, 1, ["b", 2]]}, "distinct"),
        ("routing", {"edges": [["a", "nowhere"]]}, "joins two of the labels"),
        ("routing", {"edges": [["a", 1, ["b", 2]]]}, "joins two of the labels"),
        ("routing", {"edges": ["a1"]}, "an edge must be a list"),
        ("routing", {"nodes": "a"}, "nodes must be a list"),
        ("routing", {"depot": {"a": 1}}, "labels are strings, integers"),
        ("timed routing", {"lengths": [1.5]}, "2 edges need as many lengths, got 1"),
        ("timed routing", {"lengths": [1.5, 0]}, "lengths must be positive"),
        ("timed routing", {"lengths": [1.5, True]}, "'time' of the edge .* must be a number"),
        ("timed routing", {"weight": 3}, r"weight\[0\] must be a string"),
        ("timed routing", {"max_length": "4"}, "max_length must be a number"),
        ("timed routing", {"service_times": [1, None]}, "service_times holds None"),
        ("factored", {"factors": {"a": "xy", "b": ["u", "v"]}}, "must be a list"),
        ("factored", {"factors": {"a": ["x", "y"], "b": ["u", 5]}}, "must be a string"),
        ("factored", {"factors": [["x"]]}, "factors must map"),
        ("factored", {"optional": "false"}, "optional must be true or false"),
        ("factored", {"n_decision_makers": 2.5}, "n_decision_makers must be an integer"),
        ("factored", {"n_decision_makers": 10**12}, "more than can be had"),
        ("factored", {"caps": {"a": {"x": 1.5}}}, "the cap on 'x' must be an integer"),
        ("factored", {"caps": []}, "caps must map"),
        ("factored", {"caps": {"a": ["x"]}}, "must map"),
        ("factored", {"allowed": [["x", "u"], "yv"]}, "one level for each"),
        ("factored", {"allowed": True}, "allowed must be a list"),
        (
            "factored",
            {"factors": {str(i): ["x", "y"] for i in range(40)}, "allowed": None, "caps": {}},
            "combinations of levels",
        ),
        ("box", {"binary": [0.7]}, r"binary\[0\] must be an integer"),
        ("box", {"binary": ["2"]}, r"binary\[0\] must be an integer"),
        ("box", {"binary": [2, 2]}, "distinct"),
        ("box", {"lower": [0, -1e308, 0], "upper": [1, 1e308, 1]}, r"lower\[1\]"),
        ("box", {"matrix": [[1, "1", 0]]}, "matrix"),
        ("box", {"matrix": [1, 1, 0]}, "matrix must have 2 dimensions"),
        ("intersection", {"members": {"type": "BudgetTopK"}}, "members must be a list"),
        ("intersection", {"members": "ab"}, "members must be a list"),
        ("intersection", {"members": 3}, "members must be a list"),
        ("product", {"members": [1, 2]}, '"type"'),
    ],
)
def test_wrong_types_and_sizes_are_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        ActionSpace.from_dict(changed(name, **parameters))


def test_numbers_of_numpy_are_numbers():
    assert mr.BudgetTopK(np.int64(4), np.uint8(2), exactly=np.bool_(True)).to_dict() == (
        mr.BudgetTopK(4, 2, exactly=True).to_dict()
    )
    space = mr.BudgetTopK(3, 2, costs=np.array([1, 2, 3], dtype=np.int32), budget=np.float32(3))
    assert space == mr.BudgetTopK(3, 2, costs=[1, 2, 3], budget=3)
    costs = np.array([1, 2.5, np.int64(3)], dtype=object)
    assert mr.Capacity(costs, np.arange(1, 4)) == mr.Capacity([1, 2.5, 3], [1, 2, 3])
    slots = np.ones((3, 2), dtype=bool)
    first = mr.Scheduling(slots, slots, np.int8(1), np.int64(2))
    assert first == mr.Scheduling(slots, slots, np.ones(3, dtype=int), 2)
    assert mr.Box(np.zeros(2), np.ones(2), binary=np.array([1])).binary is False
    for space in (first, mr.Box(np.float32([0, 0]), np.float32([1, 1]), binary=np.array([0, 1]))):
        assert ActionSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_what_nests_without_end_is_refused(tmp_path):
    data = VALID["top k"]
    for i in range(3000):
        data = {"type": ("Product", "Intersection")[i % 2], "members": [data]}
        if i == 10:
            assert ActionSpace.from_dict(data).n_actions == 4
    with pytest.raises(ValueError, match="deep"):
        ActionSpace.from_dict(data)
    label = "a"
    for _ in range(3000):
        label = [label]
    with pytest.raises(ValueError, match="wrong parameters for Routing"):
        ActionSpace.from_dict({**VALID["routing"], "labels": [label]})
    path = tmp_path / "space.json"
    for text in (
        "[" * 10**6,
        '{"members": ' * 10**5,
        json.dumps(VALID["top k"])[:-1] + ', "k": 3}',
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            ActionSpace.from_json(path)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 6),
    st.sampled_from([10**6, 10**9, 10**15, 2**53 + 1, 10**30, -(10**400)]),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.7, 1e-320, 1e15, 1e16, 1e300, 1e308, -1e308]),
    st.sampled_from([float("inf"), float("-inf"), float("nan")]),
    st.sampled_from(["", "no", "a", "x", "u", "2", "type", "BudgetTopK"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "x", "type", "members", "k"]), inner, max_size=3
        )
        | st.sampled_from(sorted(VALID)).map(changed)
    ),
    max_leaves=8,
)


@st.composite
def mutated(draw):
    """A valid description of which some part, or the whole parameter, is something else."""
    data = json.loads(json.dumps(VALID[draw(st.sampled_from(sorted(VALID)))]))
    for _ in range(draw(st.integers(1, 2))):
        at = data
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and at[key] and draw(st.integers(0, 2)):
                at = at[key]
                continue
            what = draw(st.integers(0, 9))
            if what == 0 and isinstance(at, dict):
                del at[key]
            elif what == 1 and isinstance(at, list):
                at.append(at[key])
            else:
                at[key] = draw(JSON)
            break
    return data


def same(given, kept):
    """Whether what was given is what is kept, type for type but for 1 and 1.0."""
    if isinstance(given, list):
        return (
            isinstance(kept, list | tuple)
            and len(given) == len(kept)
            and all(map(same, given, kept))
        )
    if isinstance(given, dict):
        return (
            isinstance(kept, dict)
            and set(given) == set(kept)
            and all(same(given[k], kept[k]) for k in given)
        )
    if isinstance(given, bool) or isinstance(kept, bool):
        return given is kept or (type(given) in (bool, int) and given == kept)
    return type(given) in (type(kept), int, float) and given == kept


@settings(deadline=None, max_examples=400)
@given(data=mutated())
def test_any_json_is_refused_or_kept_exactly(data):
    try:
        space = ActionSpace.from_dict(data)
    except ValueError:
        return
    kept = space.to_dict()
    assert ActionSpace.from_dict(json.loads(json.dumps(kept, allow_nan=False))).to_dict() == kept
    for name, value in data.items():
        if name in kept and comparable(name, value, data):
            assert same(value, kept[name]), name


def comparable(name, value, data):
    """Leave out what is written in another form: one need for all, nested members, ..."""
    if name in ("members", "edges", "allowed", "caps") or (
        name in ("needs", "durations") and not isinstance(value, list)
    ):
        return False
    return not (data["type"] == "Box" and name in ("matrix", "right", "binary"))


@settings(deadline=None, max_examples=200)
@given(data=JSON)
def test_anything_at_all_is_refused(data):
    if isinstance(data, dict) and data.get("type") in (*{v["type"] for v in VALID.values()},):
        return
    with pytest.raises(ValueError, match=r".+"):
        ActionSpace.from_dict(data)
