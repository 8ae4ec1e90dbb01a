"""The command `lfq`: the typer app and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from lfq_cli.cli import messages
from lfq_cli.cli.exits import ExitCode
from lfq_cli.cli.help import GroupedCommand
from lfq_cli.cli.interrupts import Interrupted, raise_on_signals
from lfq_cli.errors import LfqError, LfqNote, OptionError
from lfq_cli.version import __version__


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lfq {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_HELP = "Binary tokens from saved Lookup-Free Quantization checkpoints: encode tensors to packed indices, and back."

COMMANDS = {
    "encode": "encode",
    "decode": "decode",
    "stats": "stats",
    "export": "export",
    "export-codebook": "export_codebook",
    "inspect": "inspect",
    "import": "import_checkpoint",
    "verify": "verify",
    "train": "train",
    "merge": "merge",
    "split": "split",
}
"""The module of each command in this package; the command is its function of the same name."""


def command_named(name: str) -> Callable[..., None]:
    """The function of a command, with its options as parameters."""
    command: Callable[..., None] = getattr(import_module(f"lfq_cli.cli.{COMMANDS[name]}"), COMMANDS[name])
    return command


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The app with the command that the arguments begin with; with all of them if there is none (help, a typo).

    Importing all of them takes longer than encoding a small file.
    """
    app = typer.Typer(
        name="lfq",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: rich's would triple what `lfq --help` costs, and eat [brackets]
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS:
        app.command(name, cls=GroupedCommand, no_args_is_help=True)(command_named(name))
    return app


def _runs_a_command(arguments: Sequence[str]) -> bool:
    """Whether a command will do something, rather than show help."""
    return len(arguments) > 1 and arguments[0] in COMMANDS and not {"-h", "--help"} & set(arguments)


def main() -> None:
    """Runs the command line and exits with its code."""
    messages.make_printable(sys.stdout, sys.stderr)
    with raise_on_signals(), _notes_as_lines():
        try:
            if _runs_a_command(sys.argv[1:]):
                # not from within a command: CPython's stack grows in chunks of 16 KB, and numpy's imports, 35 calls
                # deeper, would cross the end of the first again and again: 1,700 chunks mapped and unmapped, 10 ms
                import numpy  # noqa: F401
            app_for(sys.argv[1:])(prog_name="lfq")  # also for python -m lfq_cli: completion is installed for this name
        except LfqError as error:
            _tell(error)
            sys.exit(ExitCode.USAGE if isinstance(error, OptionError) else ExitCode.FAILED)
        except Interrupted as interrupt:
            typer.echo("lfq: interrupted: nothing half-written is left; the same command goes on", err=True)
            sys.exit(interrupt.exit_code)
        except BrokenPipeError:
            _forget_stdout()
            sys.exit(ExitCode.FAILED)
        except OSError as reason:
            _tell(LfqError(f"{reason.filename or 'output'}: {reason.strerror or reason}"))
            _forget_stdout()
            sys.exit(ExitCode.FAILED)
        except Exception as bug:  # the boundary: anything else is a bug, reported in one line
            _show_traceback()
            shown = messages.printable(f"{type(bug).__name__}: {bug}")
            typer.echo(f"lfq: bug: {shown} (LFQ_TRACEBACK=1 shows where)", err=True)
            sys.exit(ExitCode.BUG)


@contextmanager
def _notes_as_lines() -> Iterator[None]:
    """Prints the library's notes as lines on stderr; other warnings are unchanged."""
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, LfqNote):
            typer.echo(f"lfq: note: {messages.printable(str(message))}", err=True)
        else:
            show(message, category, *rest, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", LfqNote)
        warnings.showwarning = tell
        yield


def _forget_stdout() -> None:
    """Discards what is still buffered: nobody reads it."""
    with suppress(OSError):  # a stdout without a descriptor, when called from another process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: LfqError) -> None:
    _show_traceback()
    typer.echo(messages.error_lines(error), err=True)


def _show_traceback() -> None:
    if os.environ.get("LFQ_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()
