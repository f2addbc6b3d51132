"""The command `batch-estimator`: its commands, in the order `--help` shows them."""

from __future__ import annotations

from typing import Annotated

import typer

from estimator import __version__
from estimator.commands.advise import advise
from estimator.commands.calibrate import calibrate
from estimator.commands.check import check
from estimator.commands.devices import devices
from estimator.commands.frontier import frontier
from estimator.commands.lengths import lengths
from estimator.commands.plan import plan
from estimator.commands.predict import predict
from estimator.commands.replay import replay
from estimator.commands.run import SectionedCommand
from estimator.commands.schema import schema
from estimator.commands.slurm import slurm
from estimator.commands.version import version

COMMANDS = (predict, advise, lengths, frontier, check, plan, slurm, calibrate, devices, replay, schema, version)

app = typer.Typer(
    name="batch-estimator",
    help="Predict the memory of a PyTorch training job and the largest batch that fits, without a GPU or a trial run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: importing rich for it would cost more than all the rest.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command(cls=SectionedCommand)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batch-estimator {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; ends the process with the exit code."""
    app(prog_name="batch-estimator")
