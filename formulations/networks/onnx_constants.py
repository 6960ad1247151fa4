"""Constants of an ONNX graph: what is stored, and what nodes make of it."""

from __future__ import annotations

import numpy as np
import onnx

from milp_rl.formulations.networks.lowering import Lowering
from milp_rl.formulations.networks.onnx_graph import (
    Constants,
    label,
    nodes_for,
    stored_constants,
    taken,
)
from milp_rl.formulations.networks.onnx_walk import Walk, is_known

__all__ = ["Constants", "evaluated_constants", "label"]


def evaluated_constants(graph: onnx.GraphProto, most: int) -> Constants:
    """Evaluate the constants that the nodes of the data take.

    Parameters
    ----------
    graph
        In topological order, as the checker asks for.
    most
        Bytes that all constants alive may take.

    Raises
    ------
    NetworkError
        If a constant cannot be read or evaluated, or they take more.
    """
    outputs = {value.name for value in graph.output}
    nodes = nodes_for(graph, outputs)
    stored = stored_constants(graph, outputs.union(*(taken(node) for _, node in nodes)))
    names, folded, rest = set(stored), [], outputs
    for where, node in nodes:
        if is_known(node) and all(name in names for name in node.input if name):
            folded.append((where, node))
            names.update(node.output)
        else:
            rest = rest.union(taken(node))
    walk = Walk(Lowering(1, most=most), stored, folded, sorted(rest), most)
    walk.run()
    walk.refusals.check()
    return {k: v for k, v in walk.values.items() if isinstance(v, np.ndarray)}
