import numpy as np
import pandas as pd
import pytest

from milp_rl.evaluation import learning_curve, plot_learning_curves


def run(*points: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["step", "return"])


def test_runs_looked_at_after_other_steps_are_interpolated_and_not_drawn_on():
    runs = [run((0, 0.0), (10, 10.0), (20, 10.0)), run((5, 1.0), (15, 3.0))]
    curve = learning_curve(runs)
    assert curve["step"].tolist() == [0, 5, 10, 15, 20]
    assert curve["runs"].tolist() == [1, 2, 2, 2, 1]
    assert curve["mean"].tolist() == [0, (5 + 1) / 2, (10 + 2) / 2, (10 + 3) / 2, 10]
    both = np.array([[5.0, 10.0, 10.0], [1.0, 2.0, 3.0]])
    error = both.std(axis=0, ddof=1) / np.sqrt(2)
    inside = curve.iloc[1:4]
    np.testing.assert_allclose(inside["high"] - inside["mean"], error)
    np.testing.assert_allclose(inside["mean"] - inside["low"], error)
    assert (curve["high"] - curve["low"]).iloc[[0, 4]].tolist() == [0, 0]
    deviations = learning_curve(runs, spread="deviation")
    np.testing.assert_allclose(
        (deviations["high"] - deviations["mean"]).iloc[1:4], error * np.sqrt(2)
    )
    ranges = learning_curve(runs, spread="range")
    assert ranges[["low", "high"]].iloc[1:4].to_numpy().T.tolist() == [[1, 2, 3], [5, 10, 10]]


def test_curves_are_drawn_from_frames_files_and_folders(tmp_path):
    first = run((0, 1.0), (10, 2.0))
    first.to_csv(tmp_path / "evaluations.csv", index=False)
    figure = plot_learning_curves(
        {"ours": [tmp_path, run((0, 3.0), (10, 4.0))], "theirs": [tmp_path / "evaluations.csv"]},
        lines={"heuristic": 5.0},
    )
    axes = figure.axes[0]
    ours, theirs, heuristic = axes.lines
    assert np.asarray(ours.get_xydata()).tolist() == [[0, 2], [10, 3]]
    assert np.asarray(theirs.get_xydata()).tolist() == [[0, 1], [10, 2]]
    assert set(heuristic.get_ydata()) == {5.0}
    assert len(axes.collections) == 1  # a band for the learner of two runs
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["ours", "theirs", "heuristic"]


def test_wrong_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no column return; it has step, reward"):
        learning_curve([pd.DataFrame({"step": [1], "reward": [2]})])
    with pytest.raises(ValueError, match="no points"):
        learning_curve([run()])
    with pytest.raises(ValueError, match="at least one run"):
        learning_curve([])
    with pytest.raises(ValueError, match="error, deviation, range, got 'x'"):
        learning_curve([run((0, 1.0))], spread="x")
