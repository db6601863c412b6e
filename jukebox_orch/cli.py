"""The command `jukebox-orch`: shows the results of a model project and creates new projects."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from jukebox_orch.contract import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command()
def show(
    project: Annotated[str, typer.Argument(help="Name of an installed model project")] = "jukebox",
) -> None:
    """Show the latest result of every asset of PROJECT, its checks and the location of the model."""
    from jukebox_orch import deployment
    from jukebox_orch.run_summary import print_summary

    try:
        with deployment.instance() as instance:
            from jukebox_orch.definitions import defs

            print_summary(instance, defs, project, deployment.mlflow())
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Lower-case letters, digits and underscores, for example acme_iris")
    ],
    folder: Annotated[Path, typer.Option(help="Folder in which the project's folder is created")] = Path(),
    kind: Annotated[
        Literal["table", "regression", "text", "image"],
        typer.Option(
            help="table: classes of rows; regression: a number for each row; text, image: their classes"
        ),
    ] = "table",
) -> None:
    """Create a model project that trains unchanged, as a starting point."""
    from jukebox_orch.skeleton import write_project

    try:
        target = write_project(name, folder, kind)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    python = shlex.quote(sys.executable)
    typer.echo(
        f"{target} is ready. Next:\n"
        f"  {python} -m uv pip install -e {shlex.quote(str(target))}\n"
        f"  {python} -m pytest --pyargs jukebox_orch.testing.suite --project {name}\n"
        f"then read {target / 'README.md'}"
    )


@app.callback()
def _commands() -> None:
    """Jukebox Orchestrator."""
