"""The commands about service calls to mothers: ``draw``, ``plan`` and ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from milp_rl.cli.terminal import console, echo


def draw(
    folder: Annotated[Path, typer.Argument(help="Folder for the tables.", file_okay=False)],
    beneficiaries: Annotated[int, typer.Option(help="Number of women.")] = 1000,
    callers: Annotated[int, typer.Option(help="Number of callers, of three languages.", min=3)] = 5,
    calls: Annotated[int, typer.Option(help="Calls of a caller in each slot of the shift.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Draw women, callers and clusters, and write the tables that `plan` reads."""
    from milp_rl.envs.engagement import draw_engagement
    from milp_rl.offline.engagement.roster import write_tables

    drawn = draw_engagement(beneficiaries, n_callers=callers, calls_per_slot=calls, seed=seed)
    write_tables(folder, *drawn, seed=seed)
    echo(str(folder))


def plan(
    women: Annotated[
        Path, typer.Argument(help="CSV file of the beneficiaries.", exists=True, dir_okay=False)
    ],
    callers: Annotated[
        Path, typer.Option(help="CSV file of the callers.", exists=True, dir_okay=False)
    ],
    clusters: Annotated[
        Path, typer.Option(help="CSV file of the clusters.", exists=True, dir_okay=False)
    ],
    output: Annotated[Path, typer.Option(help="CSV file for who calls whom when.")],
    budget: Annotated[int | None, typer.Option(help="Largest number of calls.")] = None,
    by: Annotated[
        Literal["whittle", "myopic"], typer.Option(help="Value of an answered call.")
    ] = "whittle",
    rest: Annotated[int, typer.Option(help="Weeks without another call after a call.")] = 2,
    gap: Annotated[float, typer.Option(help="Largest relative gap of the allocation.")] = 1e-3,
    time_limit: Annotated[float | None, typer.Option(help="Seconds.")] = None,
) -> None:
    """Plan a week: who calls whom when, with a bound on the value of any other plan."""
    from milp_rl.offline.engagement.plan import plan_calls
    from milp_rl.offline.engagement.roster import Roster

    roster = Roster.read(women, callers, clusters, budget=budget, rest=rest)
    worth = roster.worth(by)
    found = plan_calls(
        roster.programme,
        roster.women,
        worth,
        may=roster.may,
        gap=gap,
        time_limit=time_limit,
    )
    said = roster.write_plan(output, found, by)
    echo(
        f"{said['calls']} calls to {said['women']} women, value {said['value']:.6g}, at most"
        f" {said['bound']:.6g}: within {100 * said['gap']:.3g}%"
    )


def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder for the report.", file_okay=False)],
    beneficiaries: Annotated[int, typer.Option(help="Women in each programme.")] = 20,
    seeds: Annotated[int, typer.Option(help="Number of programmes, from seed 0.")] = 3,
    episodes: Annotated[int, typer.Option(help="Episodes of 40 weeks of each.")] = 20,
    sequoia: Annotated[int, typer.Option(help="Episodes to train SEQUOIA; 0: without.")] = 20,
    logged: Annotated[
        Path | None,
        typer.Option(
            help="Logged weeks to learn from, parquet or CSV; default: simulated ones.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Compare policies on the same weeks; one HTML page with tables and charts."""
    from milp_rl.offline.engagement.data import CallLog
    from milp_rl.offline.engagement.report import write_simulation

    own = None if logged is None else CallLog.read(logged)
    with console.status("") as status:
        path = write_simulation(
            folder,
            n=beneficiaries,
            seeds=seeds,
            episodes=episodes,
            sequoia=sequoia,
            logged=own,
            progress=status.update,
        )
    echo(str(path))
