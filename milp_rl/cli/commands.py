"""The commands about single networks: ``argmax``, ``info``, ``export`` and ``compare``."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import typer
from rich.table import Table

from milp_rl.cli.terminal import bar, console, echo, tracked
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.solvers.names import SolverName

_NOT_PROVEN, _INFEASIBLE = 3, 4
_FEW = 8  # states, for which loops are compiled only if a search takes long
_AT_ONCE = 256  # states between two steps of the progress bar
Order = Literal["action,state", "state,action"]


NetworkFile = Annotated[
    Path, typer.Argument(help="ONNX file of a Q-network.", exists=True, dir_okay=False)
]
SpaceFile = Annotated[
    Path,
    typer.Option("--space", help="JSON file of the feasible set.", exists=True, dir_okay=False),
]
StateFile = Annotated[
    Path, typer.Option(help="CSV file, one state per row.", exists=True, dir_okay=False)
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row of states holds names; default: if that is unmistakable.",
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module to import first, such as that of a block of your own."),
]
SolverOption = Annotated[SolverName, typer.Option(help="What solves it.")]
FormulationOption = Annotated[Formulation, typer.Option(help="For MILP solvers.")]
BoundsOption = Annotated[Strength, typer.Option(help="Of the neurons, for MILP solvers.")]
OrderOption = Annotated[
    Order | None,
    typer.Option(
        "--inputs",
        help="Order of the network's inputs, of two or within one, where it does not tell; by"
        " default action,state.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option("--network-output", help="Number or name of the one that is Q, of several."),
]


def argmax(
    network: NetworkFile,
    space: SpaceFile,
    state: StateFile,
    solver: SolverOption = "auto",
    formulation: FormulationOption = "bigm",
    bounds: BoundsOption = "linear",
    minimize: Annotated[bool, typer.Option("--minimize", help="The lowest value.")] = False,
    gap: Annotated[float, typer.Option(help="Relative gap to stop at.", min=0.0)] = 0.0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds per state.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per state.")] = False,
    proof: Annotated[
        Path | None,
        typer.Option(help="Folder for a proof of each answer, which `milp-rl check` checks."),
    ] = None,
    order: OrderOption = None,
    network_output: OutputOption = None,
    header: Header = None,
    imports: Imports = None,
) -> None:
    """Find the feasible action of highest value in each state, with proof.

    Exit status: 0 if every answer is proven optimal within the gap, 3 if a limit left one unproven,
    4 if the feasible set is empty, 1 for errors and 2 for wrong usage.
    """
    from milp_rl.argmax_solver import ArgmaxSolver
    from milp_rl.comparison.states import read_states
    from milp_rl.formulations.spaces.base import ActionSpace

    import_modules(imports)
    solving = ArgmaxSolver(
        network,
        ActionSpace.from_json(space),
        solver=solver,
        formulation=formulation,
        bounds=bounds,
        sense="minimize" if minimize else "maximize",
        gap=gap,
        time_limit=time_limit,
        inputs=_order(order),
        output=_output(network_output),
    )
    states = read_states(state, header=header, width=solving.state_dim)
    if len(states) <= _FEW:
        solving.options = replace(solving.options, once=True)
    parts = [states[i : i + _AT_ONCE] for i in range(0, len(states), _AT_ONCE)]
    solved = map(solving.solve_batch, parts)
    results = [result for part in tracked(solved, "states", len(parts)) for result in part]
    if proof is not None:
        proof.mkdir(parents=True, exist_ok=True)
        answers = enumerate(zip(states, results, strict=True))
        for number, (row, result) in tracked(answers, "proofs", len(results)):
            if result.action is not None:
                made = solving.prove(row, result, time_limit=time_limit)
                made.save(proof / f"state-{number}.npz")
    for number, result in enumerate(results):
        if as_json:
            echo(json.dumps({"state": number, **result.to_dict()}))
            continue
        chosen = "none"
        if result.action is not None and solving.space.binary:
            chosen = " ".join(map(str, result.chosen)) or "nothing"
        elif result.action is not None:
            chosen = " ".join(f"{x:.6g}" for x in result.action)
        echo(
            f"state {number}: {result.status}, value {result.value:.9g}, bound {result.bound:.9g},"
            f" {1e3 * result.seconds:.1f} ms ({result.solver}); action: {chosen}"
        )
    statuses = {result.status for result in results}
    if "infeasible" in statuses:
        raise typer.Exit(_INFEASIBLE)
    if statuses != {"optimal"}:
        raise typer.Exit(_NOT_PROVEN)


def check(
    files: Annotated[
        list[Path],
        typer.Argument(help="Proofs of `milp-rl argmax --proof`.", exists=True, dir_okay=False),
    ],
    network: Annotated[
        Path,
        typer.Option("--network", help="ONNX file of the Q-network.", exists=True, dir_okay=False),
    ],
    space: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of the feasible set; default: as the proof says.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="In rational numbers, which is much slower.")
    ] = False,
    order: OrderOption = None,
    network_output: OutputOption = None,
    imports: Imports = None,
) -> None:
    """Check proofs that answers are optimal, without any solver.

    Exit status: 0 if every proof is verified, 3 if one is refused, 1 for errors and 2 for wrong
    usage.
    """
    from milp_rl.formulations.networks.onnx_file import load_model
    from milp_rl.formulations.spaces.base import ActionSpace
    from milp_rl.proofs import Proof
    from milp_rl.proofs import check as checked

    refused = False
    import_modules(imports)
    model = load_model(network)
    known = None if space is None else ActionSpace.from_json(space)
    for file in tracked(files, "proofs", len(files)):
        proof = Proof.load(file)
        try:
            its_own = proof.its_space() if known is None else known
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        verdict = checked(
            model,
            its_own,
            proof.state,
            proof,
            exact=exact,
            inputs=_order(order),
            output=_output(network_output),
        )
        refused |= not verdict.verified
        echo(f"{file}: {verdict}")
    if refused:
        raise typer.Exit(_NOT_PROVEN)


def info(
    network: NetworkFile,
    space: Annotated[
        Path | None,
        typer.Option(help="JSON file of the feasible set.", exists=True, dir_okay=False),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="CSV file, one state per row; default: zeros.", exists=True, dir_okay=False
        ),
    ] = None,
    order: OrderOption = None,
    network_output: OutputOption = None,
    header: Header = None,
    imports: Imports = None,
) -> None:
    """Show a network's layers and, with a space, how many neurons its bounds leave unstable.

    With a space, the layers are those of the network in the action alone, at the first state.
    """
    from milp_rl.comparison.states import read_states
    from milp_rl.formulations.arrays import check_states
    from milp_rl.formulations.networks.conversion import to_action_value
    from milp_rl.formulations.networks.onnx_file import load_model
    from milp_rl.formulations.networks.onnx_reader import read_metadata
    from milp_rl.formulations.networks.trees import TreeEnsemble
    from milp_rl.formulations.spaces.base import ActionSpace

    import_modules(imports)
    model = load_model(network)
    metadata = read_metadata(model)
    reading: dict[str, Any] = {"inputs": _order(order), "output": _output(network_output)}
    table = Table("layer", "inputs", "outputs", "activation", "largest weight", "zero weights")
    if space is None:
        shown = _in_all_inputs(model, reading)
        summary, link = f"{shown.n_inputs} inputs, {shown.n_outputs} outputs", shown.link
        rows = []
    else:
        known = ActionSpace.from_json(space)
        value = to_action_value(model, known.n_actions, **reading)
        summary = f"{known.n_actions} actions, {value.state_dim} state features"
        link = value.link
        zeros = np.zeros((1, value.state_dim))
        states = zeros
        if state is not None:
            states = read_states(state, header=header, width=value.state_dim)
        shown = value.at_state(states[0])
        rows = _strengths(value, known, check_states(states, value.state_dim))
    if link != "identity":
        summary += f", {link} of what is shown"
    if isinstance(shown, TreeEnsemble):
        echo(f"{network}: {summary}, {shown.n_trees} trees, {len(shown.feature)} nodes")
    else:
        hidden = sum(len(layer.bias) for layer in shown.hidden)
        weights = [(i, w) for i in range(len(shown.layers)) for _, w in shown.inputs(i)]
        parameters = sum(w.size for _, w in weights) + sum(len(a.bias) for a in shown.layers)
        echo(f"{network}: {summary}, {hidden} hidden neurons, {parameters} parameters")
        for i, weight in weights:
            zero, largest = int((weight == 0).sum()), f"{np.abs(weight).max(initial=0):.4g}"
            outputs, inputs = map(str, weight.shape)
            kind = shown.layers[i].activation
            table.add_row(str(i), inputs, outputs, kind, largest, str(zero))
    for key, text in sorted(metadata.items()):
        echo(f"{key}: {text}")
    if not isinstance(shown, TreeEnsemble):
        echo(table)
    if rows:
        bounded = Table("bounds", "unstable neurons", "of", "output between", "ms per state")
        for row in rows:
            bounded.add_row(*row)
        echo(bounded)


def export(
    network: NetworkFile,
    space: SpaceFile,
    state: StateFile,
    output: Annotated[
        Path, typer.Option(help="File .mps or .lp; with several states, a number is appended.")
    ],
    formulation: FormulationOption = "bigm",
    bounds: BoundsOption = "linear",
    two_sided: Annotated[
        bool, typer.Option("--two-sided", help="Keep what maximisation makes redundant.")
    ] = False,
    order: OrderOption = None,
    network_output: OutputOption = None,
    header: Header = None,
    imports: Imports = None,
) -> None:
    """Write the mixed-integer program of each state, for other solvers."""
    from milp_rl.comparison.states import read_states
    from milp_rl.formulations.networks.conversion import to_action_value
    from milp_rl.formulations.spaces.base import ActionSpace
    from milp_rl.solvers.export import export_model

    import_modules(imports)
    known = ActionSpace.from_json(space)
    value = to_action_value(
        network, known.n_actions, inputs=_order(order), output=_output(network_output)
    )
    states = read_states(state, header=header, width=value.state_dim)
    output.parent.mkdir(parents=True, exist_ok=True)
    for number, row in tracked(enumerate(states), "models", len(states)):
        path = output
        if len(states) > 1:
            path = output.with_name(f"{output.stem}-{number}{output.suffix}")
        compact = export_model(
            value,
            known,
            row,
            path,
            formulation=formulation,
            bounds=bounds,
            one_sided=not two_sided,
        )
        model = compact.model
        echo(
            f"{path}: {model.n_columns} variables, {int(model.integer.sum())} of them integer,"
            f" {model.n_rows} constraints"
        )


def compare(
    folder: Annotated[
        Path,
        typer.Argument(
            help="An instance (q.onnx, space.json, states.csv), or a folder of them.",
            exists=True,
            file_okay=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the results, which are gone on with.")],
    solver: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated; default: highs, branch_and_bound, enumeration, auto."),
    ] = None,
    formulation: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: both.")
    ] = None,
    bounds: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: linear.")
    ] = None,
    gap: Annotated[float, typer.Option(help="Relative gap at which a state is solved.")] = 0.0,
    time_limit: Annotated[float, typer.Option(help="Seconds per state.")] = 60.0,
    grace: Annotated[
        float, typer.Option(help="Seconds beyond that after which a process is killed.")
    ] = 60.0,
    memory_limit: Annotated[float, typer.Option(help="GiB per process.")] = 8.0,
    jobs: Annotated[int, typer.Option(help="Processes at a time; 1 gives the truest times.")] = 1,
    models: Annotated[
        bool, typer.Option("--models", help="Write every state and formulation as MPS and LP too.")
    ] = False,
    header: Header = None,
    imports: Imports = None,
) -> None:
    """Compare solvers, formulations and bounds on every state of a folder of instances."""
    from milp_rl.comparison.instances import find_instances
    from milp_rl.comparison.methods import all_methods
    from milp_rl.comparison.report import readable, summary_table, write_comparison
    from milp_rl.comparison.run import compare as run

    free = ("highs", "branch_and_bound", "enumeration", "auto")
    import_modules(imports)
    instances = find_instances(folder, header=header)
    methods = all_methods(
        solver or free,
        formulation or ("bigm", "partition"),
        bounds or ("linear",),
    )
    if models:
        _write_models(instances, methods, output / "models")
    with bar() as shown:
        task = shown.add_task(f"{len(instances)} instances, {len(methods)} methods", total=None)
        rows = run(
            instances,
            methods,
            output,
            gap=gap,
            time_limit=time_limit,
            grace=grace,
            memory_limit=memory_limit,
            jobs=jobs,
            imports=imports or (),
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    page = write_comparison(rows, output, time_limit=time_limit)
    echo(readable(summary_table(rows, time_limit)).to_string())
    console.print(f"wrote {page}, report.md, results.csv and summary.csv")


def _write_models(instances: Sequence[Any], methods: Sequence[Any], folder: Path) -> None:
    """Write every state's model by each formulation and bounds compared, or by the defaults."""
    from milp_rl.comparison.instances import NETWORK, SPACE, STATES
    from milp_rl.comparison.states import read_states
    from milp_rl.formulations.networks.conversion import to_action_value
    from milp_rl.formulations.spaces.base import ActionSpace
    from milp_rl.solvers.export import export_model

    folder.mkdir(parents=True, exist_ok=True)
    compared = {(method.formulation, method.bounds) for method in methods if method.formulation}
    kinds = sorted(compared) or [("bigm", "linear")]
    for instance in tracked(instances, "models", len(instances)):
        space = ActionSpace.from_json(instance.folder / SPACE)
        network = to_action_value(instance.folder / NETWORK, space.n_actions)
        states = read_states(instance.folder / STATES, header=instance.header)
        for number, state in enumerate(states):
            for (formulation, bounds), ending in itertools.product(kinds, ("mps", "lp")):
                path = folder / f"{instance.name}-{number}-{formulation}-{bounds}.{ending}"
                export_model(network, space, state, path, formulation=formulation, bounds=bounds)


def _in_all_inputs(model: Any, reading: dict[str, Any]) -> Any:
    from milp_rl.formulations.networks.conversion import to_network
    from milp_rl.formulations.networks.network import NetworkError

    try:
        return to_network(model, **reading)
    except NetworkError as error:
        raise NetworkError(f"{error}; with --space, only what follows the action matters") from None


def _order(order: Order | None) -> tuple[str, ...] | None:
    return None if order is None else tuple(order.split(","))


def _output(output: str | None) -> int | str | None:
    """Return a number as one, a name as it is."""
    return int(output) if output is not None and output.lstrip("-").isdecimal() else output


def _strengths(value: Any, space: Any, states: Any) -> list[tuple[str, ...]]:
    """Return a row per strength: mean number of unstable neurons, range of the output, time."""
    import time

    from milp_rl.formulations.bounds import BoundPropagator

    rows: list[tuple[str, ...]] = []
    networks = value.at_states(states)
    hidden = sum(layer.width for layer in networks.hidden)
    for strength in get_args(Strength):
        propagator = BoundPropagator(
            space.n_actions,
            space.linear_max,
            box=(space.lower, space.upper),
            strength=strength,
            model=space.linear_model,
        )
        started = time.perf_counter()
        known = propagator.at(networks)
        seconds = (time.perf_counter() - started) / len(states)
        low, high = known.output_lower.min(), known.output_upper.max()
        rows.append(
            (
                str(strength),
                f"{known.unstable.mean():.1f}",
                str(hidden),
                f"{low:.4g} and {high:.4g}",
                f"{1e3 * seconds:.2f}",
            )
        )
    return rows


def import_modules(modules: Sequence[str] | None) -> None:
    """Import modules, such as those of blocks of your own."""
    for module in modules or ():
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module does
            raise ImportError(
                f"--import {module} fails: {type(error).__name__}: {error}"
            ) from error
