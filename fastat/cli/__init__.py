"""The command line: ``fastat train | evaluate | report | theory | info``."""

from fastat.cli.entry import main

__all__ = ["main"]
