"""Weights that are no plain tensors, in checkpoints of fastat and of other code, end a command in one line."""

import warnings
from pathlib import Path

import pytest
import torch
from test_damaged_files import TINY, outcome

from fastat.cli import main
from fastat.support.files import load_checkpoint, save_checkpoint


def compressed(value: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return value.to_sparse_csr()


ODD = {
    "sparse": lambda value: value.to_sparse(),
    "compressed": compressed,
    "meta": lambda value: value.to("meta"),
    "nested": lambda value: torch.nested.nested_tensor([value, value]),
    "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.quint8),
}


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "run"
    main([*TINY, "--epochs", "1", "--out", str(folder)])
    return folder / "best.pt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["model", "average"])
@pytest.mark.parametrize("kind", ODD)
def test_other_tensors_are_named(best, tmp_path, kind, part):
    saved = load_checkpoint(best)
    weight = next(name for name, value in saved["model"].items() if value.dim() == 2)
    file = tmp_path / "odd.pt"
    save_checkpoint(file, {**saved, part: {**saved["model"], weight: ODD[kind](saved["model"][weight])}})
    for command in (
        ["evaluate", str(file), "--quiet"],
        ["evaluate", str(file), "--quiet", "--model", "mlp", "--data", "digits"],
        [*TINY, "--init", str(file), "--out", str(tmp_path / "new")],
    ):
        said = outcome(command, tmp_path)
        assert f"{file}: '{weight}' is " in said and "save the weights as plain tensors" in said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in ODD if kind not in ("compressed", "nested")])
def test_so_are_statistics(best, tmp_path, kind):
    saved = load_checkpoint(best)
    file = tmp_path / "odd.pt"
    save_checkpoint(file, {**saved, "model": {**saved["model"], "mean": ODD[kind](saved["model"]["mean"])}})
    assert f"{file}: 'mean' is " in outcome(["evaluate", str(file), "--quiet"], tmp_path)


def test_a_network_larger_than_its_weights_is_not_built(best, tmp_path):
    """By a name of timm or torchvision too, which says no size before it is made."""
    saved = load_checkpoint(best)
    many = {"classes": ["a"] * 10**6, "image_shape": [1, 8, 8]}
    for name in ("mlp", "torchvision:resnet18"):
        config = {**saved["config"], "model": name, "width": None}
        save_checkpoint(tmp_path / "big.pt", {**saved, **many, "config": config})
        said = outcome(["evaluate", str(tmp_path / "big.pt"), "--quiet"], tmp_path)
        assert "big.pt holds the weights of another network" in said or "cannot be built" in said, said
