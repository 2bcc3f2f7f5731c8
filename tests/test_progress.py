"""What a run shows on a terminal and elsewhere."""

import sys

from fastat.progress import training_display

ROW = {
    "epoch": 3,
    "train": {"loss": 0.25, "adversarial": 0.5},
    "test": {"clean": 0.9, "pgd-20": 0.4},
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
    expected = "epoch  3/12  loss 0.250  train adversarial 50.0%  test clean 90.0%  pgd-20 40.0%  1,234 images/s"
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
    assert "loss 0.200  train adversarial 60.0%  test clean 90.0% pgd-20 40.0%" in text
    assert "…" not in text
