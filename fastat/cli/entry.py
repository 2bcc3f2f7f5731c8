"""Where a command line comes in: the command is read and run, and an error is one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastat.cli.usage import UsageError
from fastat.kernels import build_info, describe_environment
from fastat.training import ConfigError, Terminated

if TYPE_CHECKING:
    from fastat.cli.commands import Command


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command, by default that of the process's arguments.

    Raises:
        SystemExit: the command line is wrong, or the command failed for a reason that the message explains.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given == ["info"]:  # what a plain installation, without tyro, is checked by
            _show_info()
        elif given == ["--version"]:
            print(f"fastat {build_info()['version']}")
        else:
            from fastat.cli.reading import parse

            _run(parse(given))
    except UsageError as error:
        raise _misused(f"error: {error}") from error
    except ConfigError as error:
        raise _misused(f"error: --{_flag(error.field)}: {error}") from error
    except ModuleNotFoundError as error:
        needed = "the command line needs tyro: pip install 'fastat[cli]'"
        raise SystemExit(f"error: {needed if error.name == 'tyro' else error}") from error
    except (ArithmeticError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt as interrupt:
        print("\nstopped; the same command continues from where it was", file=sys.stderr)
        raise SystemExit(143 if isinstance(interrupt, Terminated) else 130) from None


def _run(command: Command) -> None:
    """Each command imports what it needs: figures, say, are slow to import and no help text has any."""
    from fastat.cli import commands

    if isinstance(command, commands.Train):
        from fastat.cli.train import run_train

        run_train(command)
    elif isinstance(command, commands.Evaluate):
        from fastat.cli.evaluate import run_evaluate

        run_evaluate(command)
    elif isinstance(command, commands.Report):
        from fastat.report import write_page

        _check_some(command.runs, "a report needs at least one run: fastat report RUN [RUN ...]")
        print(f"report: {write_page(command.runs, command.out)}")
    elif isinstance(command, commands.Theory):
        from fastat.cli.theory import run_theory

        run_theory(command)
    elif isinstance(command, commands.TheoryAll):
        from fastat.cli.theory import run_all

        run_all(command)
    elif isinstance(command, commands.TheoryPage):
        from fastat.theory.page import write_theory_page

        _check_some(command.folders, "a page needs at least one experiment: fastat theory page FOLDER [FOLDER ...]")
        print(f"page: {write_theory_page(command.folders, command.out)}")
    else:
        _show_info()


def _check_some(given: Sequence[Path], message: str) -> None:
    if not given:
        raise UsageError(message)


def _misused(message: str) -> SystemExit:
    """Ends with status 2, as tyro does where it refuses a command line; the message is shown here."""
    print(message, file=sys.stderr)
    stop = SystemExit(message)
    stop.code = 2
    return stop


def _show_info() -> None:
    for name, value in describe_environment().items():
        print(f"{name:9} {value}")


def _flag(field: str) -> str:
    return field.replace("_", "-")
