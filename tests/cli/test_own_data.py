"""Data of one's own by the name of a function, on the command line."""

import json
from pathlib import Path

import pytest
import torch
from own_code import put, refusal

import fastat
from fastat.cli import main

SOURCE = """
import torch

class Noisy(torch.utils.data.Dataset):
    classes = ("low", "high")
    def __init__(self, n):
        self.x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        x = self.x[index]
        return (x + 0.01 * torch.rand(6)).clamp(0, 1), int(x.sum() > 3)

def pair():
    return Noisy(300), Noisy(60)

def images():
    x = torch.rand(200, 3, 8, 8)
    return (x, torch.arange(200) % 2), (x[:50], torch.arange(50) % 2)

def called():
    open("called", "w").close()
    return pair()

def drawn():
    order = torch.randperm(300)
    x = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 3).long()
    return (x[order[:240]], y[order[:240]]), (x[order[240:]], y[order[240:]])

def broken():
    return {}["boom"]

def network(num_classes, in_channels, image_size):
    assert image_size == ()
    return torch.nn.Linear(in_channels, num_classes)
"""
SHORT = ["--epochs", "2", "--attack-steps", "2", "--batch-size", "32", "--val-size", "40", "--eval-size", "30"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    return put(tmp_path, monkeypatch, "own_samples", SOURCE)


def test_samples_and_a_network_of_ones_own(here, capsys):
    flags = ["--model", "own_samples:network", "--data", "own_samples:pair", "--lr", "0.5", "--eps", "0.02"]
    main(["train", *flags, *SHORT, "--out", "run"])
    said = capsys.readouterr().out
    assert "own_samples:pair, own_samples network, linf eps 0.02" in said
    results = json.loads(Path("run/results.json").read_text())
    assert results["classes"] == ["low", "high"] and results["test_images"] == 30
    both = ["--model", "own_samples:network", "--data", "own_samples:pair"]
    main(["evaluate", "run", *both, "--eval-size", "10"])
    assert "10 test images" in capsys.readouterr().out
    assert "the data of run are made by own_samples:pair, which no file can call: pass --data" in refusal(
        "evaluate", "run", *both[:2]
    )
    main(["train", *flags, *SHORT, "--out", "run"])
    assert "holds this run, finished" in capsys.readouterr().out


def test_images_of_ones_own_and_a_network_by_name(here):
    main(["train", "--data", "own_samples:images", "--width", "4", *SHORT, "--out", "run"])
    assert (here / "run/figures/adversarial_examples.png").exists()
    assert "small_cnn takes images [C, H, W], got inputs [6]" in refusal("train", "--data", "own_samples:pair", *SHORT)
    main(["train", "--data", "own_samples:pair", "--model", "mlp", "--width", "4", *SHORT, "--out", "mlp", "--quiet"])


def test_nothing_is_called_for_a_files_sake(here):
    main(["train", "--data", "own_samples:called", "--model", "mlp", "--width", "4", *SHORT, "--out", "run", "--quiet"])
    (here / "called").unlink()
    assert "names a function, which no file can call: pass --data own_samples:called" in refusal(
        "train", "--config", "run/config.json"
    )
    refusal("evaluate", "run")
    main(["report", "run", "--out", "report.html"])
    refusal("evaluate", "run", "--data", "own_samples:other")
    assert not (here / "called").exists()


def test_data_that_are_drawn_anew_are_other_data(here):
    flags = ["train", "--data", "own_samples:drawn", "--model", "mlp", "--width", "4", "--schedule", "constant", *SHORT]
    main([*flags, "--out", "run", "--quiet"])
    assert "holds a run on other images" in refusal(*flags, "--epochs", "3", "--out", "run")
    assert "holds a run on other images" in refusal(*flags, "--eval-size", "20", "--out", "run")


def test_data_that_do_not_fit(here):
    main(["train", "--data", "own_samples:pair", "--model", "mlp", "--width", "4", *SHORT, "--out", "run", "--quiet"])
    fastat.train(
        torch.nn.Linear(6, 2), own_pair(), fastat.protocol("pgd-at", eps=0.02, steps=1), out="own", epochs=1, val=20,
        device="cpu", quiet=True,
    )  # fmt: skip
    said = refusal("evaluate", "own", "--model", "own_samples:network", "--data", "digits")
    assert "error: test has 10 classes, the network 2" in said


def own_pair():
    import own_samples

    return own_samples.pair()[0]


def test_flags_that_name_them_again(here):
    main(["train", "--data", "own_samples:pair", "--model", "own_samples:network", *SHORT, "--out", "run", "--quiet"])
    again = ["--config", "run/config.json", "--data=own_samples:pair", "--model=own_samples:network"]
    main(["train", *again, "--out", "run", "--quiet"])


def test_a_run_from_python(here, capsys):
    """Its module and its data by the names of functions that make them."""
    import own_samples

    train_set = own_samples.pair()[0]
    protocol = fastat.protocol("pgd-at", eps=0.02, steps=2)
    model = own_samples.network(2, 6, ())
    fastat.train(
        model, train_set, protocol, out="run", epochs=1, val=20, normalize=(0.5, 0.5), device="cpu", quiet=True
    )
    assert "which no file can bring back: pass model=, the module, or the name of a fu" in refusal("evaluate", "run")
    flags = ["evaluate", "run", "--model", "own_samples:network"]
    assert "run was trained from Python on data of its own: pass --data, or evaluate it there" in refusal(*flags)
    main([*flags, "--data", "own_samples:pair", "--eval-size", "40"])
    assert "40 test images" in capsys.readouterr().out
    assert "it is of a run of objects, from Python, which no command line has" in refusal(
        "train", "--config", "run/config.json"
    )
    assert "holds a run of objects, from Python, this one is of a configuration" in refusal("train", "--out", "run")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", r"error: --data: own_samples:broken failed: KeyError: 'boom' \(.*own_samples.py, line \d+\)"),
        ("nothing", "error: --data: own_samples:nothing: own_samples has no function nothing"),
        ("network", "error: --data: own_samples:network failed: TypeError"),
    ],
)
def test_functions_that_make_none(here, name, said):
    with pytest.raises(SystemExit, match=said) as stop:
        main(["train", "--data", f"own_samples:{name}", *SHORT, "--out", "run"])
    assert stop.value.code == 2


@pytest.mark.parametrize("flag", ["--optimizer", "--label-noise"])
def test_what_does_not_go_with_it(here, flag):
    value = {"--optimizer": "adam", "--label-noise": "0.1"}[flag]
    run = ["train", "--data", "own_samples:pair", "--model", "mlp", "--width", "4", *SHORT, flag, value, "--out", "run"]
    if flag == "--optimizer":
        main([*run, "--quiet"])
        config = json.loads(Path("run/config.json").read_text())
        assert (config["optimizer"], config["lr"]) == ("adam", 1e-3)  # the learning rate follows the optimizer
    else:
        assert "--label-noise: labels of own_samples:pair cannot be flipped: it is read as it is needed" in refusal(
            *run
        )
