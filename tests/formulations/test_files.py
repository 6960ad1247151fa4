"""Locks, settings and JSON files."""

import json
import subprocess
import sys

import pytest

from milp_rl.formulations.files import check_settings, locked, read_json, write_json

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON file"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[Infinity]", "Infinity is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        ('[{"k": {"k": 1, "k": 1}}]', "'k' is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        (b"\xff\xfe\x00", "not a JSON file"),
    ],
)
def test_what_is_not_strict_json_is_refused(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "ü"}).encode())
    assert read_json(path) == {"a": "ü"}
