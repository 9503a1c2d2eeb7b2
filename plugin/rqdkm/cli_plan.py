"""``rqdkm plan``: look at a plan, change it, check it against a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.cli_options import JsonOpt
from rqdkm.cli_output import console, print_mapping
from rqdkm.options import OptionError

app = typer.Typer(help="Look at a plan, change it, check it.", no_args_is_help=True, rich_markup_mode=None)

PlanArg = Annotated[Path, typer.Argument(metavar="PLAN", help="plan.json of a deployment, or a directory with one.")]


def _file(path: Path) -> Path:
    return path / "plan.json" if path.is_dir() else path


@app.command()
def show(plan: PlanArg, json: JsonOpt = False) -> None:
    """Bit-widths, kernels and configurations, layer by layer."""
    from rqdkm import plan_files, plan_tools

    found, _ = plan_files.read(_file(plan))
    if json:
        print(found.to_json(), end="")
    else:
        console().print(plan_tools.render(found))


@app.command()
def edit(
    plan: PlanArg,
    layer: Annotated[str, typer.Option(help="The layer to change.")],
    weights: Annotated[
        str | None, typer.Option(metavar="BITS", help='2, 4 or 8, or runs of output channels: "8x16 4x16".')
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="B:SCALE:ZERO", help='Its result, e.g. 4:0.05:-8; "model" for 8 bits as given.'),
    ] = None,
    kernel: Annotated[str | None, typer.Option(metavar="NAME", help="A kernel, auto or tvm.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="The int8 model of the plan: the edit is checked against it.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write here; by default over PLAN.")] = None,
) -> None:
    """Change one layer. Kernels chosen for other bit-widths are chosen anew, parameters are fitted to the new ones."""
    from rqdkm import plan_tools

    if weights is None and output is None and kernel is None:
        raise OptionError("nothing to change", where="plan edit", hint="pass --weights, --output or --kernel")
    source = _file(plan)
    _, remarks = plan_tools.edit(
        source, out or source, layer, weights=weights, output=output, kernel=kernel, model=model
    )
    for remark in remarks:
        print(remark, file=sys.stderr)


@app.command()
def check(
    plan: PlanArg,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The int8 model it is for.")],
    json: JsonOpt = False,
) -> None:
    """Compile the model by the plan and print what it takes; an error says what does not fit."""
    from rqdkm import plan_tools

    with log.Progress() as progress:
        progress("compiling")
        found = plan_tools.check(_file(plan), model)
    print_mapping(found, json)
