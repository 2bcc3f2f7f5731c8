"""The CPU kernels are compiled per instruction set; all of them give the same bits."""

import os
import subprocess
import sys

import pytest

import fastat

PROGRAM = """
import hashlib, torch, fastat
from fastat import ops
torch.manual_seed(0)
digest = hashlib.sha256()
def take(*tensors):
    for t in tensors:
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    x, grad = torch.rand(5, 3, 11, 13).to(dtype), torch.randn(5, 3, 11, 13).to(dtype)
    for norm, eps, step in (("linf", 0.1, ops.linf_step_), ("l2", 1.0, ops.l2_step_), ("l1", 5.0, ops.l1_step_)):
        x_adv = ops.random_start(x, eps, norm, seed=3)
        take(x_adv)
        for _ in range(3):
            take(step(x_adv, grad, x, eps / 3, eps))
    for classes in (4, 10, 37, 1000):
        logits, y = 3 * torch.randn(7, classes).to(dtype), torch.arange(7) % classes
        for kind in ops.LOSS_KINDS:
            extra = {"targets": (y + 1) % classes} if kind == "dlr_targeted" else {}
            extra |= {"reference": logits.flip(0)} if kind == "kl" else {}
            labels = (logits > 0) if kind == "bce" else y
            take(*ops.attack_loss(logits, labels, kind, **extra))
        take(fastat.benign_weights(logits, y), fastat.discrimination_loss(logits, y % 3, positives="inside"))
    losses = torch.randn(300).abs().to(dtype)
    if dtype in (torch.float32, torch.float64):
        take(*(fastat.holistic_weights(losses, 0.1, 0.2, order) for order in ("hd", "hr")))
print(fastat.build_info()["cpu"], digest.hexdigest())
"""


def run(isa: str | None) -> list[str]:
    env = {k: v for k, v in os.environ.items() if k != "FASTAT_CPU"} | ({"FASTAT_CPU": isa} if isa else {})
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set_gives_the_same_bits(isa):
    best, expected = run(None)
    if isa == "avx2" and best == "baseline":
        pytest.skip("this machine has no AVX2")
    assert best == fastat.build_info()["cpu"] or "FASTAT_CPU" in os.environ
    assert run(isa) == [isa, expected]
