"""Where a command line comes in: the command is read and run, and an error is one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastat.cli.commands import Command, Evaluate, Report, Theory, Train
from fastat.cli.reading import parse
from fastat.kernels import describe_environment
from fastat.training import ConfigError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command, by default that of the process's arguments.

    Raises:
        SystemExit: the command line is wrong, or the command failed for a reason that the message explains.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(parse(given))
    except ConfigError as error:
        raise SystemExit(f"error: --{_flag(error.field)}: {error}") from error
    except (ArithmeticError, ModuleNotFoundError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from where it was", file=sys.stderr)
        raise SystemExit(130) from None


def _run(command: Command) -> None:
    """Each command imports what it needs: figures, say, are slow to import and no help text has any."""
    if isinstance(command, Train):
        from fastat.cli.train import run_train

        run_train(command)
    elif isinstance(command, Evaluate):
        from fastat.cli.evaluate import run_evaluate

        run_evaluate(command)
    elif isinstance(command, Report):
        from fastat.report import write_page

        print(f"report: {write_page(command.runs, command.out)}")
    elif isinstance(command, Theory):
        from fastat.cli.theory import run_theory

        run_theory(command.arguments)
    else:
        for name, value in describe_environment().items():
            print(f"{name:9} {value}")


def _flag(field: str) -> str:
    return field.replace("_", "-")
