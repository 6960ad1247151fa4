"""Locks, settings and JSON files."""

import json
import re
import subprocess
import sys

import pytest

from milp_rl.formulations.files import (
    check_settings,
    locked,
    place_of_key,
    read_json,
    read_toml,
    write_json,
)
from milp_rl.formulations.spaces.base import ActionSpace

HOLD = """
import sys, time
from milp_rl.formulations.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    try:
        with (
            pytest.raises(RuntimeError, match=rf"out is in use by process {holder.pid} on"),
            locked(tmp_path / "out"),
        ):
            pass
    finally:
        holder.kill()  # as if it had crashed: nothing is left that has to be removed
        holder.wait()
    with locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass


def test_one_process_does_not_hold_a_folder_twice(tmp_path):
    with locked(tmp_path), pytest.raises(RuntimeError, match="in use"), locked(tmp_path):
        pass
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_settings_say_what_differs(tmp_path):
    path = tmp_path / "settings.json"
    check_settings(path, {"gap": 0.0})
    write_json(path, {"gap": 0.0, "old": 1})
    check_settings(path, {"gap": 0.0, "old": 1})
    with pytest.raises(
        ValueError, match=r"gap was 0\.0, now 0\.1; new was nothing, now 2; old was 1"
    ):
        check_settings(path, {"gap": 0.1, "new": 2})
    path.write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        check_settings(path, {})


def refusal(read, path, text, message):
    """Write a file that is refused with a message, and return the whole of that."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{\n "a": 1\n "b": 2}', "line 3, column 2: not JSON: expecting ',' delimiter"),
        ('{"a": "NaN",\n "b": NaN}', "line 2, column 7: NaN is not a number"),
        ("[Infinity]", "line 1, column 2: Infinity is not a number"),
        ("[1,\n-Infinity]", "line 2, column 1: -Infinity is not a number"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        ('[{"k": {"k": 1, "k": 1}}]', "'k' is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        (b"\xff\xfe\x00", "is in UTF-16: save it as UTF-8"),
        ("[1]".encode("utf-16-le"), "is binary data, or in UTF-16"),
        ('["ü",\n "é"]'.encode("latin-1"), "line 1, column 3: the byte 0xfc is not UTF-8"),
    ],
)
def test_what_is_not_strict_json_is_refused(tmp_path, text, message):
    assert str(tmp_path / "x.json") in refusal(read_json, tmp_path / "x.json", text, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = [1\nc = 2\n", "line 3, column 1: not TOML: unclosed array"),
        ("a = 1\na = 2\n", "line 2, column 6: not TOML: cannot overwrite a value"),
        ("a = 1\nb", "line 2, column 2: not TOML: expected '='"),
        (b"a = 1\nb = '\xe9'", "line 2, column 6: the byte 0xe9 is not UTF-8"),
        ("a = 1".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        ("a = 1".encode("utf-32"), "is in UTF-32: save it as UTF-8"),
    ],
)
def test_what_is_not_toml_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "x.toml"
    assert refusal(read_toml, path, text, message).startswith(str(path))


def test_a_folder_is_no_file(tmp_path):
    for read in (read_json, read_toml):
        with pytest.raises(ValueError, match="is a folder: give a file"):
            read(tmp_path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing")


def test_the_line_of_a_key_is_found_where_it_is_set(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('# a = 0\na = 1\n[t]\n"b" = 2\n[t.u]\na = 3\nv.w = 4\n')
    places = {("a",): 2, ("t",): 3, ("t", "b"): 4, ("t", "u", "a"): 6, ("t", "u", "v", "w"): 7}
    for keys, line in places.items():
        assert place_of_key(path, *keys) == f"{path}, line {line}"
    assert place_of_key(path, "b") == str(path)
    (tmp_path / "x.json").write_text('{\n "a": 1,\n "b": 2}')
    own = tmp_path / "x.json"
    assert place_of_key(own, "b") == f"{own}, line 3"
    own.write_text('{"c": ["a",\n {"a": [], "b\\"": {}},\n\n {"b" :\n  [0,\n1,2\n]}],\n"a": 3}\n')
    for keys, line in {("a",): 8, ("c", 1, "a"): 2, ("c", 2, "b"): 4, ("c", 2, "b", 1): 6}.items():
        assert place_of_key(own, *keys) == f"{own}, line {line}"
    assert place_of_key(own, "c", 2, "no") == f"{own}, line 4"
    assert place_of_key(own, "c", 3) == f"{own}, line 1"
    assert place_of_key(own, "no") == place_of_key(own, 0) == str(own)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"k": 2', '"k": -2', 3),
        ("[1, 2, 3, 4]", "[1, 2,\n\n-3, 4]", 7),
        ("[4, 5]", '[4, "5"]', 6),
        ('"Capacity"', '"Capacitiy"', 4),
        ('"costs"', '"cost"', 5),
    ],
)
def test_what_a_space_has_wrong_is_said_with_its_line(tmp_path, old, new, line):
    text = """{"type": "Intersection",
 "members": [
  {"type": "BudgetTopK", "n_actions": 4, "k": 2},
  {"type": "Capacity",
   "costs": [1, 2, 3, 4],
   "capacities": [4, 5]}]}
"""
    path = tmp_path / "space.json"
    path.write_text(text)
    ActionSpace.from_json(path)
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line {line}: "):
        ActionSpace.from_json(path)


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ü"}).encode())
    assert read_json(path) == {"a": "ü"}
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(path) == {"a": 1}
