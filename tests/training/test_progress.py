"""What a run shows on a terminal and elsewhere."""

import sys

from fastat.training.progress import training_display

ROW = {
    "epoch": 3,
    "train": {"loss": 0.25, "adversarial": 0.5},
    "val": {"clean": 0.9, "pgd-20": 0.4},
    "stopped": "",
    "images_per_second": 1234.5,
}


def drive() -> None:
    with training_display(epochs=12, total_steps=60, done=10) as display:
        display.step(11, 3, 0.5, 0.4, 1234.5)
        display.epoch(ROW)
        display.step(15, 4, 0.2, 0.6, 1300.0)


def test_one_line_per_epoch_without_a_terminal(capsys):
    drive()
    lines = capsys.readouterr().out.splitlines()
    expected = "epoch  3/12  loss 0.250  train adversarial 50.0%  val clean 90.0%  pgd-20 40.0%  1,234 images/s"
    assert lines == [expected]


def test_bar_on_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    drive()
    text = capsys.readouterr().out
    assert "epoch 4/12" in text
    assert "1,300 images/s" in text
    assert "loss 0.200  train adversarial 60.0%  val clean 90.0%  pgd-20 40.0%" in text
    assert "…" not in text


def test_findings_and_an_early_end_are_shown(capsys):
    with training_display(epochs=12, total_steps=60, done=10) as display:
        display.finding({"monitor": "catastrophic overfitting", "step": 7, "text": "seen at step 7"})
        display.epoch({**ROW, "val": {}, "stopped": "no better accuracy"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "catastrophic overfitting: seen at step 7"
    assert "val" not in lines[1]
    assert lines[2] == "stopped early: no better accuracy"


def test_the_other_processes_are_quiet(capsys):
    with training_display(epochs=12, total_steps=60, done=10, quiet=True) as display:
        display.step(11, 3, 0.5, 0.4, 1234.5)
        display.finding({"monitor": "x", "text": "y"})
        display.epoch(ROW)
    assert capsys.readouterr().out == ""
