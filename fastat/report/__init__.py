"""Reports: what is measured of a finished network, its figures and tables, and the HTML page of runs."""

from fastat.report import html
from fastat.report.page import write_page
from fastat.report.results import RESULTS_SHOWN, attack_title, format_eps, results_table, write_results
from fastat.report.run_figures import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes, show_image

__all__ = [
    "BLUE",
    "DPI",
    "GREEN",
    "GREY",
    "ORANGE",
    "RED",
    "RESULTS_SHOWN",
    "attack_title",
    "format_eps",
    "html",
    "label_axes",
    "results_table",
    "show_image",
    "write_page",
    "write_results",
]
