"""Logarithmic axes with plain numbers."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FormatStrFormatter, LogLocator, NullLocator


def ticks_at(axes: Axes, values: Sequence[int]) -> None:
    """Labels just these values of a logarithmic x-axis."""
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{value:,}" for value in values]))
    axes.xaxis.set_minor_locator(NullLocator())


def plain_log_ticks(axes: Axes) -> None:
    """A logarithmic y-axis with plain numbers at 1, 2 and 5 times powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
