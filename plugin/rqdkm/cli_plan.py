"""``rqdkm plan``: look at a plan, change it, check it against a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.cli_options import JsonOpt, one_of
from rqdkm.cli_output import console, print_mapping
from rqdkm.options import HALOS, INPUTS, OptionError

app = typer.Typer(help="Look at a plan, change it, check it.", no_args_is_help=True, rich_markup_mode=None)

PlanArg = Annotated[Path, typer.Argument(metavar="PLAN", help="plan.json of a deployment, or a directory with one.")]


def _file(path: Path) -> Path:
    return path / "plan.json" if path.is_dir() else path


@app.command()
def show(plan: PlanArg, json: JsonOpt = False) -> None:
    """Bit-widths, kernels and configurations, layer by layer."""
    from rqdkm import patch_tools, plan_files, plan_tools

    found, _ = plan_files.read(_file(plan))
    if json:
        print(found.to_json(), end="")
    else:
        if found.patches is not None:
            console().print(patch_tools.render(found))
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
def patch(
    plan: PlanArg,
    grid: Annotated[
        str | None, typer.Option("--patch", metavar="RxC|off", help="Rows and columns of patches; off: none.")
    ] = None,
    halo: Annotated[str | None, typer.Option(metavar=one_of(HALOS[1:]), help="What neighbours share.")] = None,
    input: Annotated[str | None, typer.Option(metavar=one_of(INPUTS), help="Where the frame is.")] = None,
    branch: Annotated[int | None, typer.Option(metavar="N", help="With --layer and --output: the branch.")] = None,
    layer: Annotated[str | None, typer.Option(help="A layer of the patch stage.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="B:SCALE:ZERO", help='Its result in that branch, e.g. 4:0.05:-8; "own" as its entry says.'
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write here; by default over PLAN.")] = None,
) -> None:
    """Change how the first layers are cut into patches, or a format in one of their branches."""
    from rqdkm import patch_tools

    formats = (branch, layer, output)
    if all(value is None for value in (grid, halo, input, *formats)):
        raise OptionError("nothing to change", where="plan patch", hint="pass --patch, --halo, --input or --branch")
    if any(value is None for value in formats) and any(value is not None for value in formats):
        raise OptionError("belong together", where="--branch, --layer, --output", hint="pass all three")
    source = _file(plan)
    remarks = patch_tools.edit(
        source, out or source, grid=grid, halo=halo, source=input, branch=branch, layer=layer, output=output
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
