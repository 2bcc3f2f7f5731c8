"""Arrays of one's own that are no pictures train, are evaluated and reported from the command line."""

import json

import numpy as np
import pytest
import torch

from fastat.cli import main

FLAGS = [
    "--epochs", "1", "--batch-size", "32", "--val-size", "32", "--eval-size", "20", "--attack-steps", "2", "--quiet",
]  # fmt: skip


def trained(folder, x, *flags):
    y = np.arange(len(x)) % 3
    np.savez(folder / "own.npz", x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])
    main(["train", "--data", f"tensors:{folder / 'own.npz'}", *FLAGS, *flags, "--out", str(folder / "run")])
    return json.loads((folder / "run" / "results.json").read_text())


def arrays(*shape):
    return torch.rand(200, *shape, generator=torch.Generator().manual_seed(0)).numpy()


@pytest.mark.parametrize("shape", [(2, 8, 8), (5, 8, 8), (3, 8, 8), (12,)])
def test_any_number_of_channels(shape, tmp_path):
    model = "mlp" if len(shape) == 1 else "small_cnn"
    results = trained(tmp_path, (255 * arrays(*shape)).astype(np.uint8), "--model", model, "--width", "8")
    drawn = "figures/adversarial_examples.png" in results["figures"]
    assert drawn == (shape[0] == 3) == (tmp_path / "run/figures/adversarial_examples.png").exists()
    main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")])
    assert ("Adversarial examples" in (tmp_path / "report.html").read_text()) == drawn


def test_numbers_that_leave_the_box(tmp_path):
    x = 4 * arrays(12) - 2
    with pytest.raises(
        SystemExit, match=r"--box: box must be off \(--no-box\) .*True with training images from -2 to 1\.999"
    ):
        trained(tmp_path, x, "--model", "mlp", "--width", "8")
    results = trained(tmp_path, x, "--model", "mlp", "--width", "8", "--no-box", "--eps", "0.2")
    assert results["accuracy"]["clean"]["accuracy"] >= 0
