"""The command line `jukebox-orch`: what Dagster's own commands do not show."""

from pathlib import Path
from typing import Annotated

import typer

from jukebox_orch.contract import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command()
def show(
    project: Annotated[str, typer.Argument(help="Name of an installed model project")] = "jukebox",
) -> None:
    """Show the newest result of every asset of PROJECT, its checks and where the model is."""
    import dagster as dg

    from jukebox_orch.definitions import defs
    from jukebox_orch.run_summary import print_summary

    try:
        with dg.DagsterInstance.get() as instance:
            print_summary(instance, defs, project)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Lower-case letters, digits and underscores, for example acme_iris")
    ],
    folder: Annotated[Path, typer.Option(help="Where the project's folder is made")] = Path(),
) -> None:
    """Write a model project that trains as it is, ready to be changed."""
    from jukebox_orch.skeleton import write_project

    try:
        target = write_project(name, folder)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{target} is ready. Next: uv pip install -e {target}, then read {target / 'README.md'}")


@app.callback()
def _commands() -> None:
    """Jukebox Orchestrator."""
