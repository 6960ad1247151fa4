"""A picture of epochs: scores against risks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from milp_rl.envs.performative.scores import Epoch
from milp_rl.reports.document import new_figure


def plot_epochs(epochs: Sequence[Epoch]) -> Figure:
    """Draw each epoch's scores against the risk with the intervention and without.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per epoch. On the diagonal a score is calibrated.
    """
    figure = new_figure(0.9 + 2.4 * len(epochs), 3.1)
    panels = figure.subplots(1, len(epochs), sharey=True, squeeze=False)[0]
    for axes, epoch in zip(panels, epochs, strict=True):
        axes.scatter(epoch.scores, epoch.risk_before, s=4, color="#c7c7c7", label="untreated")
        axes.scatter(epoch.scores, epoch.risk_after, s=4, color="#1f5a91", label="treated")
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        axes.set(title=f"epoch {epoch.number}", xlabel="score", xlim=(0, 1), ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("risk")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
        markerscale=3,
    )
    return figure
