"""What the benchmarks make of their numbers: changes, tables, strength, and a contest in small."""

import copy
import json
import time
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.contests.contest import NO_TIME, hold
from bench.contests.timing import FIRST_ROUNDS, LEAST_ROUNDS
from bench.cost_model.counts import group_of, on_paper
from bench.cost_model.measure import fitted_power
from bench.peers import attackers
from bench.reports import changes
from bench.reports import speed_tables as report
from bench.reports.attack_table import best, by_case, counts
from bench.reports.batch_figure import draw_batches
from bench.suites import bench_pgd

CPU = torch.device("cpu")


def entry(ratio: float, spread: float = 0.01, **facts: float) -> dict[str, Any]:
    quartiles = [ratio * (1 - spread), ratio, ratio * (1 + spread)]
    return {"median_s": ratio * 0.01, "rounds": 9, "ratio": quartiles, **facts}


def canned(eager: float = 2.0, noise: float = 0.01, batch: int = 128) -> dict[str, Any]:
    """A run of one case where the plain loop takes ``eager`` times as long as ours."""
    strong = {"success": 0.5, "loss": 2.0, "p_as_strong": 0.7}
    case = {
        "row": 7, "title": "PGD-10", "case": f"net {batch}", "bytes": 0, "missing": {},
        "settings": {"network": "net", "batch": batch, "precision": "fp32"},
        "noise": [1 - noise, 1.0, 1 + noise],
        "contenders": {
            "ours": entry(1.0, 0.0, **strong),
            "ours, compile": entry(0.8, **strong),
            "eager": entry(eager, **strong),
            "eager, compile": entry(0.9, **strong),
            "torchattacks": entry(0.5, **strong) | {"success": 0.1, "p_as_strong": 1e-9},
            "torchattacks, compile": entry(1.1, **strong),
            "foolbox": entry(0.5, **strong) | {"success": 0.1, "p_as_strong": 1e-9},
            "model alone": entry(0.7),
        },
    }  # fmt: skip
    environment = {"kind": "cpu", "device": "some CPU", "threads": 2, "torch": "2"}
    run = {"environment": environment, "commit": "abc", "date": "2026-01-01 00:00 UTC", "ceilings": {}}
    return run | {"cases": [case], "cut": [], "failed": {}}


def verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    return {change.who: change.verdict for change in changes.changes([old], new)}


def test_a_change_counts_beyond_the_noise_of_both_runs():
    assert verdicts(canned(2.0), canned(2.0)) == {"ours": changes.SAME, "ours, compile": changes.SAME}
    assert verdicts(canned(2.0), canned(1.8))["ours"] == changes.SLOWER
    assert verdicts(canned(2.0), canned(2.2))["ours"] == changes.FASTER
    assert verdicts(canned(2.0, noise=0.2), canned(1.8))["ours"] == changes.SAME
    assert verdicts(canned(2.0), canned(1.8, noise=0.2))["ours"] == changes.SAME


def test_times_are_compared_on_like_machines_only():
    other = canned()
    assert all(change.seconds == (0.01, 0.01) for change in changes.changes([canned()], other)[:1])
    other["environment"]["threads"] = 8
    assert all(change.seconds is None for change in changes.changes([canned()], other))
    other["environment"]["device"] = "another CPU"
    assert changes.changes([canned()], other) == []
    assert "Nothing to compare" in changes.table([], other)


def test_the_latest_of_several_results_counts_and_other_files_are_passed_over():
    late = canned(4.0) | {"date": "2026-02-01 00:00 UTC"}
    found = changes.changes([late, {"epochs": 3}, canned(2.0)], canned(4.0))
    assert found[0].old[1] == pytest.approx(1 / 4)


def test_a_run_that_was_cut_short_proves_nothing():
    short = canned(1.0)
    short["cases"][0]["contenders"]["eager"]["rounds"] = 2
    found = changes.changes([canned()], short)
    assert {change.verdict for change in found} == {changes.SAME}
    assert "unknown" in changes.table(found, short)


def test_who_had_few_rounds_is_not_judged_and_hides_nothing():
    runs = canned(2.0), canned(1.0)
    for run in runs:
        for who in ("ours, compile", "torchattacks"):
            run["cases"][0]["contenders"][who]["rounds"] = FIRST_ROUNDS
    assert verdicts(*runs) == {"ours": changes.SLOWER, "ours, compile": changes.SAME}


def test_a_training_step_is_measured_by_the_plain_one():
    old = canned()
    old["cases"][0] |= {"title": report.TRAINING_STEP, "contenders": {"ours": entry(1.0, 0.0), "HR": entry(1.01)}}
    new = copy.deepcopy(old)
    new["cases"][0]["contenders"]["HR"] = entry(1.2)
    assert verdicts(old, new) == {"HR": changes.SLOWER}


def test_only_fail_makes_a_regression_an_error(tmp_path, capsys):
    for name, run in (("old", canned(2.0)), ("new", canned(1.0))):
        (tmp_path / name).write_text(json.dumps(run))
    command = ["compare", "--new", str(tmp_path / "new"), "--old", str(tmp_path / "old")]
    assert main(command) == 0
    assert "slower" in capsys.readouterr().out
    assert main([*command, "--fail"]) == 1
    assert main(["compare", "--new", str(tmp_path / "old"), "--old", str(tmp_path / "old"), "--fail"]) == 0


def test_a_weaker_attack_does_not_count_however_fast():
    case = canned()["cases"][0]
    assert not counts(case, "torchattacks")
    assert best(case, lambda c: c.attacker == "torchattacks") == "torchattacks, compile"
    text = by_case([case])
    row = dict(zip(*([cell.strip() for cell in text.splitlines()[i].split("|")] for i in (2, 4)), strict=True))
    assert row["torchattacks, best / as is"] == "1.38x (c) / weaker"
    assert row["foolbox, best / as is"] == "weaker"
    assert row["eager, best / as is"] == "1.12x (c) / 2.50x"
    assert row["ours"] == "1.25x"
    assert row["fastest of ours"] == "8 ms (c)"
    assert "everyone else: 1 faster, 0 slower, 0 within the noise." in text
    assert "Against the textbook loop as it is: 2.50x to 2.50x as fast." in text
    assert "rise of the loss): torchattacks (net 128); foolbox (net 128)." in text
    assert "torchattacks" in report.details(canned())


def test_few_images_do_not_hide_an_attack_that_does_nothing():
    nothing = torch.zeros(8, dtype=torch.bool)
    some = nothing.clone()
    some[:5] = True
    case = canned()["cases"][0]
    undecided = bench_pgd.sign_test(nothing, some)
    case["contenders"] |= {
        "foolbox": entry(0.5, success=0.0, p_as_strong=undecided, gain=0.0),
        "adv-lib": entry(0.5, success=0.5, p_as_strong=bench_pgd.sign_test(some, some), gain=0.3),
        "cleverhans": entry(0.5, success=0.4, p_as_strong=undecided, gain=0.95),
    }
    assert [counts(case, name) for name in ("foolbox", "adv-lib", "cleverhans")] == [False, True, True]


def test_a_variant_that_was_lucky_for_three_rounds_is_not_the_best():
    case = canned()["cases"][0]
    case["contenders"]["eager, frozen"] = case["contenders"]["eager, compile"] | {"rounds": 3, "ratio": [0.1] * 3}
    assert best(case, lambda c: c.attacker == "eager") == "eager, compile"


def test_strength_is_a_matter_of_the_images_that_only_one_fools():
    neither = torch.zeros(40, dtype=torch.bool)
    some = neither.clone()
    some[:20] = True
    assert bench_pgd.sign_test(some, some) == 1.0
    assert bench_pgd.sign_test(neither, some) == pytest.approx(2.0**-20)
    assert bench_pgd.sign_test(some, neither) == 1.0


def test_names_of_contenders():
    roster = attackers.roster(graph=True, compile=True)
    assert [attackers.parse(str(contender)) for contender in roster] == roster
    assert str(attackers.Contender("eager", ("channels_last", "compile"))) == "eager, channels_last + compile"
    assert {c.attacker for c in roster if "graph" in c.levers} == set(attackers.RECORDED)
    assert {c.attacker for c in roster if "reduce-overhead" in c.levers} == set(attackers.ATTACKERS)
    assert not any("reduce-overhead" in c.levers for c in attackers.roster(graph=False, compile=True))


def test_a_contest_in_small():
    case = bench_pgd.Case("small_cnn", 2, "fp32")
    held = hold(replace(bench_pgd.contest(case, CPU), seconds=0.0), CPU)
    assert {"ours", "eager", "eager, frozen", "ours, channels_last", "eager, channels_last"} <= set(held.times)
    assert "ours, frozen" not in held.times
    assert held.facts["ours"]["p_as_strong"] == 1.0 and held.facts["ours"]["gain"] > 0.9
    rounds = {name: len(times) for name, times in held.times.items()}
    assert rounds["ours"] == FIRST_ROUNDS + LEAST_ROUNDS
    assert {name.partition(",")[0] for name, count in rounds.items() if count == rounds["ours"]} >= {"ours", "eager"}
    assert min(rounds.values()) == FIRST_ROUNDS
    label = {"row": 7, "title": "PGD-10", "case": str(case), "settings": asdict(case)}
    raw = {"ceilings": {"copy_bytes_per_s": 1e9}, "outcomes": [asdict(replace(held, label=label))]}
    run = canned() | {"cases": report.cases_of(json.loads(json.dumps(raw)))}
    assert str(case) in report.tables(run)


def test_only_the_best_variant_of_everyone_goes_on():
    times = {
        "ours": [3.0],
        "ours again": [3.1],
        "eager": [5.0],
        "eager, compile": [4.0],
        "ours, compile": [2.0, 9.0, 2.0],
    }
    assert bench_pgd.finalists(times) == {"ours", "ours again", "eager", "eager, compile", "ours, compile"}


def test_without_time_ours_alone_is_measured_once():
    contest = replace(bench_pgd.contest(bench_pgd.Case("small_cnn", 2, "fp32"), CPU), seconds=0.0)
    held = hold(contest, CPU, end=time.monotonic() - 1)
    assert set(held.times) == {"ours", "ours again"}
    assert len(held.times["ours"]) == 1
    assert held.missing["eager"] == NO_TIME


def test_the_figure_needs_three_batch_sizes(tmp_path):
    runs = [canned(batch=batch) for batch in (16, 64, 256)]
    run = runs[0] | {"cases": [case for run in runs for case in run["cases"]]}
    assert draw_batches(runs[0], tmp_path, "cpu") == []
    (path,) = draw_batches(run, tmp_path, "cpu")
    assert path.stat().st_size > 10_000


def test_counts_on_paper():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.ReLU())
    counted = on_paper(network, torch.rand(2, 3, 4, 4), 4)
    products = 2 * 16 * 8 * 3 * 9
    assert (counted.forward_flop, counted.gradient_flop) == (2 * products, 2 * products)
    assert counted.bytes == 2 * 4 * (8 * 3 * 9 + 2 * 8 * 16)
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::native_batch_norm", "normalization"),
        ("aten::addmm", "linear"),
        ("aten::add_", "pointwise"),
        ("aten::threshold_backward", "pointwise"),
        ("fastat::linf_step_", "ours"),
        ("aten::max_pool2d_with_indices", "rest"),
    ],
)
def test_groups_of_operators(operator, group):
    assert group_of(operator) == group


def test_powers():
    fit = fitted_power((1, 2, 4, 8), (3, 6, 12, 24))
    assert fit["power"] == pytest.approx(1.0)
    assert fit["power_error"] == pytest.approx(0.0, abs=1e-9)
