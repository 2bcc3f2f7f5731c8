"""Every file in examples/ runs as it stands and ends with a robust network."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"with_accelerate": "accelerate", "with_lightning": "lightning"}
BY_TORCHRUN = {"distributed"}


def robust_accuracies(text):
    found = re.findall(r"([\d.]+)% under PGD-20|^PGD-20 +([\d.]+)%", text, re.MULTILINE)
    return [float(one or other) for one, other in found]


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.parametrize("name", sorted({p.stem for p in EXAMPLES.glob("*.py")} - {"digits", "loggers"} - BY_TORCHRUN))
def test_an_example(name, on_path, capsys, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    found = robust_accuracies(capsys.readouterr().out)
    assert found and min(found) > 40  # untrained networks: below 5


class Service:
    """Enough of Weights & Biases and of MLflow, where these are not installed: it keeps what it is told."""

    def __init__(self):
        self.told = {}

    def init(self, project):
        return self

    def start_run(self):
        return self

    def log_metrics(self, numbers, step):
        self.told[step] = numbers

    log = log_metrics


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_loggers(name, on_path, capsys, tmp_path, monkeypatch):
    service = Service()
    if name == "tensorboard":
        pytest.importorskip(name)
    else:
        monkeypatch.setitem(sys.modules, name, service)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["loggers.py", name])
    runpy.run_path(str(EXAMPLES / "loggers.py"), run_name="__main__")
    assert "step 10: loss" in capsys.readouterr().out
    if name == "tensorboard":
        assert list((tmp_path / "runs/logged/tensorboard").glob("events*"))
    else:
        assert sorted(service.told) == [1, 2, 3]
        assert set(service.told[3]) >= {"lr", "train/adversarial", "val/clean", "val/pgd-20"}


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--fsdp"]])
def test_several_processes(flags, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(EXAMPLES / "distributed.py"), *flags,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "by 2 processes" in done.stdout and min(robust_accuracies(done.stdout)) > 40
