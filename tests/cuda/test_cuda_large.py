"""More than 2**31 elements: every offset in 64 bits. bfloat16, so that it takes some 20 GB."""

import pytest
import torch
from cuda_cases import DEVICE, EPS, NORMS, SIZE, norms, step_of

from fastat.kernels import ops

LIMIT = 2**31
NEEDED = 30 << 30


@pytest.fixture(autouse=True)
def _room():
    free = torch.cuda.mem_get_info()[0]
    if free < NEEDED:
        pytest.skip(f"needs {NEEDED >> 30} GiB of free device memory, {free / 2**30:.0f} GiB here")
    yield
    torch.cuda.empty_cache()


def random(*shape):
    return torch.rand(*shape, device=DEVICE, dtype=torch.bfloat16)


@pytest.mark.parametrize("norm", NORMS)
def test_many_samples(norm):
    x = random(LIMIT // 3072 + 3, 3072)
    x_adv = ops.random_start(x, EPS[norm], norm, seed=1)
    tail = slice(len(x) - 5, len(x))
    ids = torch.arange(len(x), device=DEVICE)[tail]
    assert torch.equal(x_adv[tail], ops.random_start(x[tail], EPS[norm], norm, seed=1, sample_ids=ids))
    alone, head = x_adv[tail].clone(), x_adv[:5].clone()
    step_of(norm)(x_adv, x, x, SIZE[norm], EPS[norm])  # the pixels serve as gradients: all positive
    assert torch.equal(x_adv[tail], step_of(norm)(alone, x[tail], x[tail], SIZE[norm], EPS[norm]))
    assert torch.equal(x_adv[:5], step_of(norm)(head, x[:5], x[:5], SIZE[norm], EPS[norm]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_sample(norm):
    x = random(1, LIMIT + 64)
    x[0, -3:] = torch.tensor([0.25, 0.5, 0.75])
    grad = torch.zeros_like(x)
    grad[0, -3:] = 1
    x_adv = x.clone()
    size = {"linf": 0.125, "l2": 0.125 * 3**0.5}[norm]
    step_of(norm)(x_adv, grad, x, size, 1.0)
    torch.testing.assert_close(x_adv[0, -3:].float().cpu(), torch.tensor([0.375, 0.625, 0.875]), rtol=0, atol=4e-3)
    x_adv[0, -3:] = x[0, -3:]
    assert torch.equal(x_adv, x)


def test_many_logits():
    logits = random(LIMIT // 1000 + 7, 1000)
    y = torch.randint(1000, (len(logits),), device=DEVICE)
    loss, grad = ops.attack_loss(logits, y)
    for part in (slice(0, 5), slice(len(y) - 5, len(y))):
        expected = ops.attack_loss(logits[part], y[part])
        assert torch.equal(loss[part], expected[0]) and torch.equal(grad[part], expected[1])
    assert loss.isfinite().all()


def test_best_of_many():
    x_adv = random(LIMIT // 3072 + 3, 3072)
    best_x = torch.zeros_like(x_adv)
    loss, best_loss = torch.rand(len(x_adv), device=DEVICE), torch.full((len(x_adv),), 0.5, device=DEVICE)
    ops.best_(best_x, best_loss, x_adv, loss)
    kept = norms(best_x[-4000:], "linf") > 0
    assert torch.equal(kept, loss[-4000:] > 0.5)
    assert torch.equal(best_x[-4000:][kept], x_adv[-4000:][kept])
