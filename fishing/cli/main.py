"""The group of all commands, which reports errors in one line and sets exit codes."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import Any

import click

from fishing import __version__
from fishing.cli.classify import classify
from fishing.cli.compress import compress
from fishing.cli.evaluate import evaluate
from fishing.cli.export import export
from fishing.cli.extract import extract
from fishing.cli.fetch import fetch
from fishing.cli.import_net import import_net
from fishing.cli.index import index
from fishing.cli.info import info
from fishing.cli.photographs import photographs
from fishing.cli.report import report
from fishing.cli.reproduce import reproduce
from fishing.cli.retrieval import retrieval
from fishing.cli.score import score
from fishing.cli.search import search
from fishing.cli.select import select
from fishing.cli.temper import temper
from fishing.errors import FishingError, printable
from fishing.processes import open_standard_streams


class _Group(click.Group):
    """A group whose commands report every error that a user can cause in one line."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command line, with a standard stream in place of each closed one."""
        open_standard_streams()
        return super().main(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error becomes one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except (FishingError, OSError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                raise  # the reader of our output left early: click ends quietly
            click.echo(f"fishing: {printable(str(error))}", err=True)
            ctx.exit(2)
        except MemoryError as error:
            click.echo(f"fishing: out of memory {printable(str(error))}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("fishing: interrupted; run the same command again", err=True)
            ctx.exit(130)


class _Formatter(logging.Formatter):
    """Writes each log record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fishing")
def main() -> None:
    """Gradient features from deep nets.

    An image is represented by the gradient of the cross-entropy between the class
    probabilities that a net predicts for it and a uniform label (Gordo, Gaidon and
    Perronnin, BMVC 2015). Extract these features, then train and evaluate classifiers
    on them:

    \b
      fishing fetch vgg16
      fishing extract --net vgg16 --split trainval --split test
      fishing evaluate features.h5
    """  # noqa: D301 - a backspace tells click to keep the lines that follow
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal's encoding does not have, such as a name, is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("fishing: %(message)s"))
    logger = logging.getLogger("fishing")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    # Whatever matters in these libraries' warnings is raised as an error of ours.
    warnings.filterwarnings("ignore", module="PIL")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


for _command in (
    *(fetch, import_net, extract, export, evaluate, search, retrieval),
    *(classify, score, select),
    *(compress, index, temper, reproduce, report, info, photographs),
):
    main.add_command(_command)
