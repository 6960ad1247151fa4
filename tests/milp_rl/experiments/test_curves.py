import json

import pytest

from milp_rl.experiments.curves import group_runs, write_curves


@pytest.fixture
def runs(tmp_path):
    def make(name, seed, **parameters):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"environment": "E", "agent": "dqn", "seed": seed, "parameters": parameters}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "evaluations.csv").write_text(f"step,return\n10,{seed}\n20,{seed + 1}\n")
        return folder

    return [make("a", 0), make("b", 1), make("c", 0, n_step=3, loss="hinge")]


def test_runs_that_differ_by_their_seeds_are_one_curve(runs, tmp_path):
    assert group_runs(runs) == {
        "loss=default, n_step=default": runs[:2],
        "loss=hinge, n_step=3": runs[2:],
    }
    assert group_runs(runs[:2]) == {"dqn": runs[:2]}
    for kind, begins in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        write_curves(runs, tmp_path / f"curves.{kind}")
        assert (tmp_path / f"curves.{kind}").read_bytes().startswith(begins)


def test_wrong_use_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"as .png, .svg or .pdf, got 'curves.gif'"):
        write_curves(runs, tmp_path / "curves.gif")
    with pytest.raises(ValueError, match="no evaluations of `milp-rl train` yet"):
        group_runs([tmp_path])
