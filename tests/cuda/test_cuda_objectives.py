"""HR and BAT losses on a GPU: the twin's values and gradients; nothing read back, no fourth launch, no B x B memory."""

import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from cuda_cases import (
    DELAY,
    DEVICE,
    DTYPES,
    assert_benign,
    assert_contrast,
    captured,
    gpu,
    products_case,
)
from loss_cases import logits_case
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import fastat
from fastat.kernels import objective_ops, reference

REAL = [torch.float32, torch.float64]

OBJECTIVES = {
    "holistic_loss": lambda of, logits, features, y: of.holistic_loss(cross_entropy(logits, y), 0.05, 0.1),
    "holistic_loss, hr": lambda of, logits, features, y: of.holistic_loss(cross_entropy(logits, y), 0.05, 0.1, "hr"),
    "holistic_cross_entropy": lambda of, logits, features, y: of.holistic_cross_entropy(logits, y, 0.05, 0.1),
    "benign_loss": lambda of, logits, features, y: of.benign_loss(logits, features, y),
    "discrimination_loss": lambda of, logits, features, y: of.discrimination_loss(features, y),
    "discrimination_loss, inside": lambda of, logits, features, y: of.discrimination_loss(
        features, y, positives="inside"
    ),
}
"""``(fastat or its twin, logits, features, y) -> loss``"""


def cross_entropy(logits, y):
    return F.cross_entropy(logits, y, reduction="none")


def batch(size, dtype=torch.float32, seed=0):
    """Logits and features, leaves that require grad, and labels, on the CPU."""
    logits, y, _ = logits_case("ce", size, 10, dtype, seed)
    features = torch.randn(size, 32, generator=torch.Generator().manual_seed(seed + 1), dtype=dtype)
    return logits.requires_grad_(), features.requires_grad_(), y


def gradients(loss, logits, features):
    """Those of the leaves that the loss depends on."""
    found = torch.autograd.grad(loss, (logits, features), torch.ones_like(loss), allow_unused=True)
    return [g for g in found if g is not None]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_captured_objectives_and_their_gradients(name):
    logits, features, y = (gpu(t).detach().clone() for t in batch(130))
    logits.requires_grad_()
    features.requires_grad_()

    def work():
        loss = OBJECTIVES[name](fastat, logits, features, y)
        return loss.detach(), *gradients(loss, logits, features)

    graph, results = captured(work)
    for seed in (1, 2):
        with torch.no_grad():
            for to, t in zip((logits, features, y), batch(130, seed=seed), strict=True):
                to.copy_(t)
        graph.replay()
        for result, expected in zip(results, work(), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-7)


@contextmanager
def no_read_back():
    """An error wherever the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_debug_mode_sees_a_read_back():
    with no_read_back(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=DEVICE).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [130, 1100])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_is_read_back(name, size, dtype):
    half = dtype in (torch.float16, torch.bfloat16)
    if half and name.startswith("holistic_loss"):
        pytest.skip("takes losses of float32 and float64")
    logits, features, y = map(gpu, batch(size, dtype))
    leaves = [t.detach().requires_grad_() for t in (logits, features)]
    OBJECTIVES[name](fastat, *leaves, y).backward()  # libraries start up
    with no_read_back():
        OBJECTIVES[name](fastat, *leaves, y).backward()
        fastat.benign_weights(logits, y)
        if not half:
            budget = leaves[0].detach()[0, 0] * 0
            fastat.holistic_weights(cross_entropy(logits, y).detach(), budget, budget + 0.1)


def launches(work):
    """Names of what runs on the device during the work."""
    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        work()
        torch.cuda.synchronize()
    return [event.name for event in recorded.events() if event.device_type == DeviceType.CUDA]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [128, 4096])
def test_holistic_cross_entropy_takes_three_launches(size, dtype):
    one = torch.ones((), device=DEVICE)
    if len(launches(lambda: one + 1)) != 1:
        pytest.skip("the profiler does not see kernels here")
    logits, y, _ = (gpu(t) for t in logits_case("ce", size, 10, dtype))
    leaf = logits.detach().requires_grad_()
    names = launches(lambda: torch.autograd.grad(fastat.holistic_cross_entropy(leaf, y, 0.05, 0.1), leaf, one))
    assert 1 <= len(names) <= 3, names


@pytest.mark.parametrize("size", [1, 2, 5, 130, 1100])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_and_gradients_are_the_twins(name, size):
    logits, features, y = batch(size, torch.float64)
    exact = OBJECTIVES[name](reference, logits, features, y)
    leaves = [gpu(t.detach()).requires_grad_() for t in (logits, features)]
    loss = OBJECTIVES[name](fastat, *leaves, gpu(y))
    torch.testing.assert_close(loss.detach().cpu(), exact.detach(), rtol=1e-9, atol=1e-12)
    for ours, twins in zip(gradients(loss, *leaves), gradients(exact, logits, features), strict=True):
        torch.testing.assert_close(ours.cpu(), twins, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_in_other_precisions(name, dtype):
    logits, features, y = (t.detach() for t in batch(130, dtype))
    if name.startswith("holistic_loss"):
        logits = logits.float()
    wide = [t.double().requires_grad_() for t in (logits, features)]
    leaves = [gpu(t).requires_grad_() for t in (logits, features)]
    loss = OBJECTIVES[name](fastat, *leaves, gpu(y))
    assert loss.dtype == torch.float32
    exact = gradients(OBJECTIVES[name](reference, *wide, y), *wide)
    for ours, twins in zip(gradients(loss, *leaves), exact, strict=True):
        assert ours.dtype == (dtype if ours.shape == features.shape else logits.dtype)
        largest = twins.abs().max().item()
        torch.testing.assert_close(
            ours.cpu().double(),
            twins,
            rtol=torch.finfo(ours.dtype).eps,
            atol=max(1e-5, torch.finfo(ours.dtype).eps) * largest,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 10_007])
def test_benign_weights(rows, dtype):
    logits, y, _ = logits_case("ce", rows, 10, dtype)
    for gamma in (0.0, 1.0, 50.0):
        assert_benign(logits, y, gamma)
    torch.testing.assert_close(
        fastat.benign_weights(gpu(logits), gpu(y), 2.0).cpu(), fastat.benign_weights(logits, y, 2.0), rtol=2e-6, atol=0
    )


def test_benign_weight_of_a_label_out_of_range():
    logits, y, _ = (gpu(t) for t in logits_case("ce", 40, 10))
    expected = fastat.benign_weights(logits, y)
    y = y.clone()
    y[3], y[20] = -1, 10
    weights = fastat.benign_weights(logits, y)
    others = torch.arange(40, device=DEVICE) % 17 != 3
    assert weights[[3, 20]].isnan().all() and torch.equal(weights[others], expected[others])


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", [7, 1000, 1024, 1025, 3000])
@pytest.mark.parametrize("inside", [False, True])
def test_tiles_of_products(inside, n, dtype):
    products, labels = products_case(n, dtype)
    for first, last in ((0, n), (n // 3, n // 2 + 1), (n - 1, n)):
        assert_contrast(products, labels, first, last, inside)


@pytest.mark.parametrize("n", [40, 1100])
def test_samples_without_a_positive_have_no_loss(n):
    products, labels = products_case(n)
    labels = torch.arange(n, dtype=labels.dtype)
    labels[5] = labels[17]
    sums = torch.empty(4, n, device=DEVICE)
    objective_ops.contrast_rows_(sums, gpu(products), gpu(labels), 0, 0, 10.0, False)
    lone = torch.ones(n, dtype=torch.bool, device=DEVICE)
    lone[[5, 17]] = False
    assert sums[0, lone].isinf().all() and sums[1:, lone].count_nonzero() == 0
    assert sums[2, ~lone].tolist() == [1.0, 1.0] and sums[0, ~lone].isfinite().all()
    features = torch.randn(n, 8, device=DEVICE, requires_grad=True)
    loss = fastat.discrimination_loss(features, torch.arange(n, device=DEVICE))
    loss.backward()
    assert loss.item() == 0 and features.grad.count_nonzero() == 0


def test_discrimination_of_many_samples_in_little_memory():
    size, tau = 16_384, 0.1
    features = torch.randn(size, 512, device=DEVICE, requires_grad=True)
    y = torch.randint(10, (size,), device=DEVICE)
    fastat.discrimination_loss(features[:64], y[:64], tau).backward()  # libraries start up
    features.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = fastat.discrimination_loss(features, y, tau)
    loss.backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1 << 30  # the matrix of similarities alone has 1 GiB
    h = F.normalize(features.detach(), dim=1)
    exact = torch.zeros((), dtype=torch.float64, device=DEVICE)
    for rows in torch.arange(size, device=DEVICE).split(2048):
        similarity = h[rows] @ h.T / tau
        similarity[torch.arange(len(rows), device=DEVICE), rows] = -math.inf
        positive = y[rows, None] == y[None, :]
        positive[torch.arange(len(rows), device=DEVICE), rows] = False
        mean = torch.where(positive, similarity, 0.0).sum(1) / positive.sum(1)
        exact += (similarity.logsumexp(1) - mean).double().sum() / size
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert features.grad.isfinite().all() and features.grad.count_nonzero() > 0


def test_objectives_wait_for_their_own_stream():
    logits, features, y = (gpu(t).detach() for t in batch(130))
    names = ("holistic_cross_entropy", "benign_loss")
    expected = [OBJECTIVES[name](fastat, logits, features, y) for name in names]
    late = [torch.zeros_like(t) for t in (logits, features)]
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(DELAY)  # on another stream the kernels would find zeros
        for to, t in zip(late, (logits, features), strict=True):
            to.copy_(t)
        found = [OBJECTIVES[name](fastat, *late, y) for name in names]
    side.synchronize()
    for result, loss in zip(found, expected, strict=True):
        torch.testing.assert_close(result, loss, rtol=1e-6, atol=0)


def test_opcheck():
    logits, y, _ = (gpu(t) for t in logits_case("ce", 6, 5))
    products, labels = (gpu(t) for t in products_case(6))
    losses, one = torch.rand(6, device=DEVICE), torch.ones((), device=DEVICE)
    budget = torch.tensor(0.1, dtype=torch.float64, device=DEVICE)
    sums, ops = torch.empty(4, 6, device=DEVICE), torch.ops.fastat
    ops.contrast_rows_(sums, products, labels, 0, 0, 10.0, True)
    for op, arguments in (
        (ops.holistic, (losses.clone().requires_grad_(), 0.05, 0.1, None, None, 0)),
        (ops.holistic, (losses, 0.0, 0.0, budget, budget, 1)),
        (ops.benign_cross_entropy, (logits, y, 1.0)),
        (ops.scale_rows, (products, losses, one)),
        (ops.contrast_rows_, (sums.clone(), products[2:4], labels, 1, 2, 10.0, False)),
        (ops.contrast_gradient_, (products.clone()[2:4], labels, sums, one, 2, 10.0, True)),
    ):
        torch.library.opcheck(op.default, arguments)


def test_a_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device here")
    for name in OBJECTIVES:
        logits, features, y = batch(130)
        losses = [
            OBJECTIVES[name](fastat, *(t.detach().to(device) for t in (logits, features, y)))
            for device in ("cuda:0", "cuda:1")
        ]
        assert losses[1].device.index == 1
        torch.testing.assert_close(losses[0].cpu(), losses[1].cpu(), rtol=1e-6, atol=0)
    assert torch.cuda.current_device() == 0
