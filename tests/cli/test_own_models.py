"""From the command line: networks of one's own, weights to start from, and weights of other code."""

import json
from pathlib import Path

import pytest
import torch
from own_code import put, refusal
from torch import nn

from fastat import models
from fastat.cli import main
from fastat.training import load_network
from fastat.training import loop as training

SHORT = [
    "--epochs", "1", "--attack-steps", "1", "--train-size", "96", "--batch-size", "32", "--val-size", "10",
    "--eval-size", "20",
]  # fmt: skip
SOURCE = """
import torch

def network(num_classes, in_channels):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * in_channels, num_classes))

def number():
    return 3

def broken():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    return put(tmp_path, monkeypatch, "own_networks", SOURCE)


def test_a_network_of_ones_own(here, capsys):
    main(["train", "--model", "own_networks:network", *SHORT, "--out", "run"])
    assert "digits, own_networks network" in capsys.readouterr().out
    found = load_network("run", "cpu", model="own_networks:network").model
    assert isinstance(found.model[1], nn.Linear) and found.model[1].out_features == 10
    main(["evaluate", "run", "--model", "own_networks:network", "--eval-size", "10"])
    # a file that somebody else made names a function: it is not called for that
    assert "is made by own_networks:network, which no file can call: pass model=" in refusal("evaluate", "run")
    assert "names a function, which no file can call: pass --model own_networks:network" in refusal(
        "train", "--config", "run/config.json"
    )
    main(["report", "run", "--out", "report.html"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_networks:number", "own_networks:number must return a torch.nn.Module, got int"),
        ("own_networks:broken", "own_networks:broken failed: RuntimeError: no luck"),
        ("own_networks:nothing", "own_networks:nothing: own_networks has no function nothing"),
        ("no_such:network", "no_such cannot be imported: ModuleNotFoundError"),
    ],
)
def test_functions_that_make_none(here, name, said):
    assert said in refusal("train", "--model", name, *SHORT, "--out", "run")


def test_weights_to_start_from(here, capsys):
    torch.manual_seed(3)
    theirs = models.build("mlp", 7, 1, width=16, image_size=(8, 8)).model.state_dict()
    torch.save({"state_dict": {f"module.{name}": t for name, t in theirs.items()}}, "theirs.pt")
    flags = ["train", "--model", "mlp", "--width", "16", "--init", "theirs.pt", "--lr", "1e-9", *SHORT, "--out", "run"]
    main(flags)
    assert "weights: left as initialized, for another number of classes: " in capsys.readouterr().out
    found = load_network("run", "cpu").model.model.state_dict()
    for name, t in theirs.items():
        if t.is_floating_point() and found[name].shape == t.shape and t.dim() > 1:
            torch.testing.assert_close(found[name], t, rtol=0, atol=1e-6)
    assert json.loads(Path("run/config.json").read_text())["init"] == "theirs.pt"
    main(flags)  # finished: it shows its results
    assert "error: --init: no checkpoint at nowhere.pt" in refusal(*flags[:5], "--init", "nowhere.pt", *SHORT)
    assert "does not fit the network: missing" in refusal("train", "--init", "theirs.pt", *SHORT, "--out", "other")


def test_a_run_that_has_begun_needs_no_file_it_started_from(here, monkeypatch):
    torch.save(models.build("mlp", 10, 1, width=16, image_size=(8, 8)).model.state_dict(), "theirs.pt")
    flags = ["train", "--model", "mlp", "--width", "16", "--init", "theirs.pt", *SHORT, "--epochs", "2", "--out", "run"]
    after = training.start_epoch

    def interrupt(state):
        after(state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "start_epoch", interrupt)
        with pytest.raises(SystemExit):
            main(flags)
    (here / "theirs.pt").unlink()
    main(flags)
    assert load_network("run", "cpu").finished


def test_pretrained_networks(here, monkeypatch):
    import torchvision

    assert "pretrained must be left out for small_cnn" in refusal("train", "--pretrained")
    torch.manual_seed(5)
    weights = torchvision.models.resnet18().state_dict()  # as they are kept where they have been fetched
    monkeypatch.setenv("TORCH_HOME", str(here / "hub"))
    kept = here / "hub" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    torch.save(weights, kept / torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    found = models.build("torchvision:resnet18", 3, 3, 0.0, 1.0, pretrained=True)
    assert torch.equal(found.model.conv1.weight, weights["conv1.weight"]) and found.model.fc.out_features == 3
    torch.testing.assert_close(found.mean, torch.tensor([0.485, 0.456, 0.406]))


def test_weights_of_other_code(here, capsys):
    torch.manual_seed(3)
    torch.save({"module." + name: t for name, t in models.build("small_cnn", 10, 1).model.state_dict().items()}, "w.pt")
    assert "w.pt is no checkpoint of fastat: say which network its weights are for" in refusal("evaluate", "w.pt")
    shown = ["--data", "digits", "--eval-size", "20", "--eps", "0.05"]
    main(["evaluate", "w.pt", "--model", "small_cnn", *shown, "--out", "found"])
    assert "20 test images, weights of other code" in capsys.readouterr().out
    results = json.loads(Path("found/results.json").read_text())
    assert results["eps"] == 0.05 and results["figures"] == [
        "figures/adversarial_examples.png", "figures/accuracy_vs_eps.png",
    ]  # fmt: skip
    said = refusal("evaluate", "w.pt", "--model", "preact_resnet18", *shown)
    assert "does not fit the network: missing: " in said and said.endswith("; they would fit small_cnn")
    (here / "junk.pt").write_bytes(b"junk")
    assert "junk.pt is not a checkpoint that can be read" in refusal("evaluate", "junk.pt", "--model", "mlp", *shown)
