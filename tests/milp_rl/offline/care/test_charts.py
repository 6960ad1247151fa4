"""Charts of reports on logged decisions."""

from __future__ import annotations

import pandas as pd
import pytest

from milp_rl.offline.care.charts import subgroup_chart, values_chart


@pytest.mark.parametrize(
    "label", ["discounted return (weighted doubly robust, 95% interval)", None]
)
def test_no_text_is_cut_off(label):
    names = ["behaviour cloning", "IQL, Kostrikov et al., no further tasks"]
    table = pd.DataFrame({"policy": names, "value": [7.5, 11.1], "low": [1.4, 8.5]})
    table = table.assign(high=[10.9, 12.3], observed=[8.0, 9.0], group=names)
    figure = subgroup_chart(table) if label is None else values_chart(table, label)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
