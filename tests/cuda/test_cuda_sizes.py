"""On a GPU: sizes and boxes of elements, entries that are not finite, confident rows, masks, and warnings that wait."""

import math
import warnings

import pytest
import torch
from cuda_cases import DEVICE, DTYPES, EPS, NORMS, SIZE, assert_loss, assert_points, assert_step, copy64, gpu
from loss_cases import logits_case
from size_cases import SIZES, in_full, problem, size_of
from torch import nn

import fastat
from fastat.kernels import ops, reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIZES)
def test_linf_sizes_of_every_shape(name, dtype):
    eps, step, lower = (size_of(name, *ends) for ends in ((0.01, 0.1), (0.01, 0.05), (0.0, 0.3)))
    result = assert_step("linf", *problem(dtype), step, eps, lower, lower + 0.4)
    last = [t.contiguous(memory_format=torch.channels_last) for t in problem(dtype)]
    args = (gpu(t) for t in (step, eps, lower, lower + 0.4))
    assert torch.equal(ops.linf_step_(*map(gpu, last), *args), result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_boxes_of_every_shape(norm, name, dtype):
    x_adv, grad, x = problem(dtype)
    lower = size_of(name, 0.0, 0.3)
    x = torch.minimum(torch.maximum(x, in_full(lower).to(dtype)), in_full(lower + 0.4).to(dtype))
    assert_step(norm, x_adv, grad, x, SIZE[norm], EPS[norm], lower, lower + 0.4)
    result = ops.project_(gpu(x_adv), gpu(x), EPS[norm], norm, gpu(lower), gpu(lower + 0.4))
    on_cpu = ops.project_(x_adv.clone(), x, EPS[norm], norm, lower, lower + 0.4)
    double = (lower.double(), (lower + 0.4).double())
    assert_points(norm, result, on_cpu, reference.project_(copy64(x_adv), x.double(), EPS[norm], norm, *double))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_starts_in_boxes_of_every_shape(norm, name):
    x, lower = problem()[2], size_of(name, 0.0, 0.2)
    lower = lower.clone().flatten().index_fill_(0, torch.tensor([0]), 0.9).view(lower.shape)  # some are pinned
    x = torch.maximum(x, in_full(lower)).clamp(max=0.9)
    found = ops.random_start(gpu(x), EPS[norm], norm, 5, lower=gpu(lower), upper=torch.tensor(0.9, device=DEVICE))
    on_cpu = ops.random_start(x, EPS[norm], norm, 5, lower=lower, upper=torch.tensor(0.9))
    torch.testing.assert_close(found.cpu(), on_cpu, rtol=0, atol=0 if norm == "linf" else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [7, 64, 3072, 3077, 20001])
@pytest.mark.parametrize("norm", NORMS)
def test_entries_that_are_not_finite(norm, n, dtype):
    g = torch.Generator().manual_seed(n)
    x = torch.rand(4, n, generator=g, dtype=torch.float64).to(dtype)
    grad = torch.randn(4, n, generator=g, dtype=torch.float64).to(dtype)
    grad[0, ::3], grad[1, 5], grad[2, 1:3], grad[3] = math.nan, math.inf, -math.inf, math.nan
    assert_step(norm, x.clone(), grad, x, SIZE[norm], EPS[norm])


@pytest.mark.parametrize("scale", [1e300, 1e-300])
@pytest.mark.parametrize("n", [50, 5001])
def test_l2_of_doubles_whose_squares_leave_the_range(n, scale):
    x, grad = torch.rand(3, n, dtype=torch.float64), torch.randn(3, n, dtype=torch.float64)
    expected = ops.l2_step_(gpu(x).clone(), gpu(grad), gpu(x), 0.1, 1.0)
    found = ops.l2_step_(gpu(x).clone(), gpu(grad * scale), gpu(x), 0.1, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("classes", [1, 3, 10, 17, 1000, 5003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_odds_at_any_confidence(classes, dtype):
    scale = 30.0 if dtype == torch.float16 else 3e4
    logits, y = logits_case("log_odds", 19, classes, dtype, scale=scale)[:2]
    logits[2, 0], logits[3], logits[5, -1] = math.inf, -math.inf, -math.inf
    found = ops.attack_loss(gpu(logits), gpu(y), "log_odds")
    for ours, theirs in zip(found, ops.attack_loss(logits, y, "log_odds"), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=2e-6, atol=1e-6, equal_nan=True)
    assert_loss("log_odds", *logits_case("log_odds", 19, classes, dtype))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5)).to(DEVICE).eval()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_masks(norm, graph):
    model, (_, _, x) = network(), map(gpu, problem())
    y = model(x).argmax(1)
    mask = (torch.arange(30, device=DEVICE) % 7 < 3).view(1, 1, 5, 6)
    outside = ~mask.expand_as(x)
    for options in ({}, {"early_stop": True}, {"keep": "best", "restarts": 2}, {"quantize": 255}):
        found = fastat.pgd(model, x, y, EPS[norm], norm=norm, mask=mask, seed=0, graph=graph, **options)
        assert torch.equal(found[outside], x[outside]) and not torch.equal(found, x)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"momentum": 1.0}, {"momentum": 1.0, "nesterov": True}, {"diversity": 0.7}, {"samples": 2}, {"quantize": 255}],
    ids=lambda o: next(iter(o)),
)
def test_options(options, graph):
    model, (_, _, x) = network(), map(gpu, problem())
    y = model(x).argmax(1)
    found = fastat.pgd(model, x, y, 0.06, steps=5, seed=0, graph=graph, **options)
    on_cpu = fastat.pgd(network().cpu(), x.cpu(), y.cpu(), 0.06, steps=5, seed=0, **options)
    assert (found.cpu() - on_cpu).abs().gt(1e-5).float().mean() < 0.02  # signs of gradients that are as good as zero


def test_warnings_come_with_the_next_read_back():
    model = nn.Sequential(network(), nn.Softmax(1))
    x = gpu(problem()[2])
    y = model(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", fastat.WeakAttackWarning)
        fastat.pgd(model, x, y, 0.1, steps=1)
    with pytest.warns(fastat.WeakAttackWarning, match="probabilities"):
        fastat.fgsm(model, x, y, 0.1)


def test_no_read_back_beyond_the_one_there_is():
    model = network()
    x = gpu(problem()[2])
    y = model(x).argmax(1)
    fastat.pgd(model, x, y, 0.1, steps=2)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fastat.pgd(model, x, y, 0.1, steps=2, seed=torch.tensor(1, device=DEVICE), validate=False)
        with pytest.raises(RuntimeError, match="synchroniz"):
            fastat.pgd(model, x, y, 0.1, steps=2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
