"""Weights that other code saved, in the wrappings it saves them in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fastat import models
from fastat.models import closest_named, load_weights, read_weights

FILE = Path("theirs.pt")


def network(classes=4, name="small_cnn", seed=0):
    torch.manual_seed(seed)
    return models.build(name, classes, 3, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4], 8 if name == "small_cnn" else None)


def theirs(seed=1, classes=4):
    return network(classes, seed=seed).model.state_dict()


def prefixed(prefix, weights):
    return {prefix + name: t for name, t in weights.items()}


WRAPPINGS = {
    "alone": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model": lambda w: {"model": w, "optimizer": {"state": {}}, "acc": 0.5},
    "data parallel": lambda w: {"state_dict": prefixed("module.", w)},
    "compiled": lambda w: prefixed("_orig_mod.", w),
    "in a Sequential": lambda w: prefixed("1.", w),
    "several": lambda w: {"model_state_dict": prefixed("module._orig_mod.model.", w)},
    "nested": lambda w: {"model": {"state_dict": w}},
    "an average": lambda w: {"state_dict": theirs(seed=9), "ema_state_dict": w},
    "without counters": lambda w: {name: t for name, t in w.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("kind", list(WRAPPINGS))
def test_every_wrapping(kind, tmp_path):
    torch.save(WRAPPINGS[kind](theirs()), tmp_path / "model.pt")
    ours = network()
    notes = load_weights(ours, read_weights(tmp_path / "model.pt"), tmp_path / "model.pt", other_classes=False)
    assert notes == []
    for name, t in ours.model.state_dict().items():
        if kind != "without counters" or "num_batches" not in name:
            assert torch.equal(t, theirs()[name])
    torch.testing.assert_close(ours.mean, torch.tensor([0.4, 0.5, 0.6]))


def test_a_normalization_beside_the_network_is_taken():
    ours, other = network(), models.Normalized(nn.Identity(), [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    whole = {**prefixed("module.model.", theirs()), **prefixed("module.", dict(other.named_buffers()))}
    assert load_weights(ours, whole, FILE, other_classes=False) == []
    assert torch.equal(ours.mean, other.mean) and torch.equal(ours.std, other.std)


def test_what_is_beside_the_network_is_told():
    whole = {**prefixed("backbone.", theirs()), "projection.weight": torch.zeros(3, 3)}
    assert load_weights(network(), whole, FILE, other_classes=False) == ["not used: projection.weight"]


def test_a_classifier_for_other_classes():
    ours = network(classes=3)
    before = {name: t.clone() for name, t in ours.model.state_dict().items()}
    (note,) = load_weights(ours, theirs(classes=10), FILE, other_classes=True)
    fresh = [name for name, t in theirs(classes=10).items() if t.shape != before[name].shape]
    assert note == f"left as initialized, for another number of classes: {', '.join(fresh)}" and len(fresh) == 2
    for name, t in ours.model.state_dict().items():
        assert torch.equal(t, before[name] if name in fresh else theirs(classes=10)[name])
    with pytest.raises(
        ValueError, match=r"theirs.pt does not fit the network: of another shape: .*\[10, 128\], not \[3, 128\]"
    ):
        load_weights(ours, theirs(classes=10), FILE, other_classes=False)


def test_what_does_not_fit_is_named():
    weights = theirs()
    first = next(iter(weights))
    del weights[first]
    weights["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=rf"does not fit the network: missing: {first}; unexpected: extra.weight$"):
        load_weights(network(), weights, FILE, other_classes=True)
    names = {f"layer{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(ValueError, match=r"missing: .* and \d+ more; unexpected: layer0, .*, layer4 and 4 more$"):
        load_weights(network(), names, FILE, other_classes=True)


def test_what_a_network_loads_by_itself_is_not_unexpected():
    # the code of TRADES saves a block that it never uses
    torch.manual_seed(0)
    ours = models.Normalized(models.wide_resnet_28_10(4), 0.0, 1.0)
    weights = dict(ours.model.state_dict())
    weights |= {name.replace("block1", "sub_block1", 1): t for name, t in weights.items() if name.startswith("block1")}
    assert load_weights(ours, prefixed("module.", weights), FILE, other_classes=False) == []


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "nowhere.pt")
    for content in ({"epoch": 3, "config": {"a": 1}}, {}, {"state_dict": {}}):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(
            ValueError, match=r"model.pt holds no weights of a network, nor any named average, .*it has"
        ):
            read_weights(tmp_path / "model.pt")


def test_wrappings_that_do_not_end(tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model.pt holds no weights of a network, .*it has 'state_dict'"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["preact_resnet18", "preact_resnet34", "wide_resnet_28_10"])
def test_the_network_that_fits(name):
    with torch.device("meta"):
        weights = prefixed("module.", getattr(models, name)(10, 3).state_dict())
    assert closest_named(weights, 10, (3, 32, 32)) == name
    assert closest_named({"a.b": torch.zeros(2)}, 10, (3, 32, 32)) == ""
