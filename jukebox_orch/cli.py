"""The command line `jukebox-orch`: what Dagster's own commands do not show."""

from typing import Annotated

import typer

from jukebox_orch.project import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command()
def show(
    project: Annotated[str, typer.Argument(help="Name of an installed model project")] = "jukebox",
) -> None:
    """Show the newest result of every asset of PROJECT, its checks and where the model is."""
    import dagster as dg

    from jukebox_orch.definitions import defs
    from jukebox_orch.summary import print_summary

    try:
        with dg.DagsterInstance.get() as instance:
            print_summary(instance, defs, project)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@app.callback()
def _commands() -> None:
    """Jukebox Orchestrator."""
