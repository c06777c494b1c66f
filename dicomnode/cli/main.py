"""The command ``dicomnode`` finds the sub-command, and turns errors into text and exit codes.

Help imports no heavy library: the file of a command imports click and the standard library at its top. It imports
the room that it calls inside the command function.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import sys
import traceback
from typing import NoReturn

import click

from dicomnode import __version__
from dicomnode.cli import output
from dicomnode.errors import NodeError

UNEXPECTED, WRONG_USE, INTERRUPTED = 1, 2, 130  # the codes of NodeError's family stand in errors.py

# Command → "module:function", in the order of the help.
COMMANDS = {
    "serve": "dicomnode.cli.serve:serve",
    "reload": "dicomnode.cli.reload:reload",
    "web": "dicomnode.cli.web:web",
    "worker": "dicomnode.cli.cluster:worker",
    "scheduler": "dicomnode.cli.cluster:scheduler",
    "demo": "dicomnode.cli.demo:demo",
    "infer": "dicomnode.cli.infer:infer",
    "status": "dicomnode.cli.status:status",
    "series": "dicomnode.cli.series:series",
    "deliveries": "dicomnode.cli.deliveries:deliveries",
    "quarantine": "dicomnode.cli.quarantine:quarantine",
    "archive": "dicomnode.cli.archive:archive",
    "purge": "dicomnode.cli.purge:purge",
    "rules": "dicomnode.cli.rules:rules",
    "check": "dicomnode.cli.check:check",
    "alerts": "dicomnode.cli.alerts:alerts",
    "echo": "dicomnode.cli.echo:echo",
    "send": "dicomnode.cli.send:send",
    "pull": "dicomnode.cli.pull:pull",
    "train": "dicomnode.cli.train:train",
    "evaluate": "dicomnode.cli.evaluate:evaluate",
    "model": "dicomnode.cli.model:model",
    "db": "dicomnode.cli.db:db",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """List the names of the commands, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return the command of that name; None makes click list the commands."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command), COMMANDS[cmd_name]
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error. Default: one sentence.")
@click.version_option(__version__, message="dicomnode %(version)s")
def cli(debug: bool) -> None:
    """Receive thick-slice MR series over DICOM, derive thin-slice series, and deliver these to the PACS.

    For research. Not a medical device, not for primary diagnosis.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    try:
        with cli.make_context("dicomnode", list(words)) as ctx:
            result = cli.invoke(ctx)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        said = io.StringIO()  # click quotes words of the command line, which a wildcard may have written
        exc.show(said)
        output.say_lines(said.getvalue().rstrip(), err=True)
        return WRONG_USE
    except (KeyboardInterrupt, click.Abort):
        output.say("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe, such as `head`, has ended: this is no error, and nothing more must be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except NodeError as exc:
        _show_traceback(words)
        output.say_lines(f"dicomnode: {exc.sentence}" + (f"\n  {exc.hint}" if exc.hint else ""), err=True)
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 (border: the command line)
        _show_traceback(words)
        output.say(f"dicomnode: unexpected {type(exc).__name__}; `dicomnode --debug …` shows where.", err=True)
        return UNEXPECTED


def _show_traceback(words: list[str]) -> None:
    """Print the traceback if ``--debug`` was given. Reads the words itself: click's context may not exist yet."""
    if "--debug" in itertools.takewhile(lambda word: word.startswith("-"), words):
        output.say_lines(traceback.format_exc().rstrip(), err=True)
