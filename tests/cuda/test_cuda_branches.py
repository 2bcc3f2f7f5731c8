"""Every launch branch of csrc/cuda/*.cu on its smallest shapes: this file also runs under compute-sanitizer."""

import pytest
import torch
from cuda_cases import (
    DTYPES,
    EPS,
    NORMS,
    ORDERS,
    SIZE,
    assert_benign,
    assert_contrast,
    assert_holistic,
    assert_loss,
    assert_points,
    assert_scaled,
    assert_step,
    copy64,
    gpu,
    losses_case,
    misaligned,
    problem,
    products_case,
    step_of,
)
from loss_cases import logits_case

import fastat
from fastat.kernels import ops, reference

# linf: vector loads of 16 bytes where the sizes allow, else one element at a time.
LINF = [(1, 1), (3, 7), (2, 16), (5, 17), (2, 3, 8, 8), (3, 1037)]
# l2, float32: registers with 128x1, 128x2, 256x2, 256x3, 512x3, 512x4, 1024x4 vectors of four, on both sides of each
# limit; streamed with vectors above 16,384; streamed by elements where n is odd.
L2 = [4, 508, 512, 516, 1024, 1028, 2048, 2052, 3072, 3076, 6144, 6148, 8192, 8196, 16384, 16388, 1, 3, 3077, 20001]
# l1: on chip up to some 19,300 float32, 9,600 float64 and 23,200 half elements; above, streamed (half: in a workspace).
L1 = {torch.float32: [1, 511, 3072, 20001], torch.float64: [3, 513, 10001], torch.float16: [5, 3072, 24001]}
L1[torch.bfloat16] = L1[torch.float16]
REAL = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LINF)
def test_linf_step(shape, dtype):
    x_adv, grad, x = problem("linf", shape, dtype)
    assert_step("linf", x_adv, grad, x, 0.03, 0.1)
    assert_step("linf", x_adv, grad, x, torch.linspace(0.01, 0.1, shape[0]), torch.linspace(0.0, 0.2, shape[0]))


@pytest.mark.parametrize("n", L2)
def test_l2_step_float32(n):
    x_adv, grad, x = problem("l2", (3, n))
    assert_step("l2", x_adv, grad, x, SIZE["l2"], EPS["l2"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [7, 64, 3072, 20001, 20008])
def test_l2_step_streamed(n, dtype):
    x_adv, grad, x = problem("l2", (3, n), dtype)
    assert_step("l2", x_adv, grad, x, torch.tensor([0.4, 0.0, 2.0]), torch.tensor([1.0, 1.0, 0.5]))


@pytest.mark.parametrize(("dtype", "n"), [(dtype, n) for dtype, sizes in L1.items() for n in sizes])
def test_l1_step(dtype, n):
    x_adv, grad, x = problem("l1", (3, n), dtype)
    assert_step("l1", x_adv, grad, x, SIZE["l1"], EPS["l1"])
    assert_step("l1", x_adv, grad, x, torch.tensor([[1.5], [0.0], [9.0]]), torch.tensor([[3.0], [1.0], [0.0]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [5, 64, 3076, 24001])
@pytest.mark.parametrize("norm", NORMS)
def test_project(norm, n, dtype):
    _, noise, x = problem(norm, (3, n), dtype)
    far = x + noise
    result = ops.project_(gpu(far).clone(), gpu(x), EPS[norm], norm)
    exact = reference.project_(copy64(far), x.double(), EPS[norm], norm)
    assert_points(norm, result, ops.project_(far.clone(), x, EPS[norm], norm), exact, reach=8.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_steps_on_misaligned_tensors(norm, dtype):
    x_adv, grad, x = problem(norm, (3, 64), dtype)
    expected = step_of(norm)(gpu(x_adv).clone(), gpu(grad), gpu(x), SIZE[norm], EPS[norm])
    for shifted in range(3):
        tensors = [misaligned(gpu(t)) if i == shifted else gpu(t).clone() for i, t in enumerate((x_adv, grad, x))]
        result = step_of(norm)(*tensors, SIZE[norm], EPS[norm])
        torch.testing.assert_close(result, expected, rtol=0, atol=0 if norm == "linf" else 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (3, 64), (2, 3, 4, 5), (2, 3, 4, 4), (2, 3, 2, 3, 4), (2, 2052)])
@pytest.mark.parametrize("norm", NORMS)
def test_random_start(norm, shape, dtype):
    x = torch.rand(shape).to(dtype)
    formats = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(len(shape), [])
    expected = ops.random_start(x, EPS[norm], norm, seed=11, draw=2)
    tensors = [gpu(x), misaligned(gpu(x)), *(gpu(x).contiguous(memory_format=f) for f in formats)]
    for t in tensors:
        start = ops.random_start(t, EPS[norm], norm, seed=11, draw=2)
        assert start.stride() == t.stride()
        if norm == "linf":
            assert torch.equal(start.cpu(), expected)
        else:  # the sum that scales the noise is added up in another order
            unit = torch.finfo(dtype).eps if dtype in (torch.float16, torch.bfloat16) else 1e-6
            torch.testing.assert_close(start.cpu(), expected, rtol=0, atol=unit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 16, 17, 100, 1024, 1025, 5000])
@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_attack_loss(kind, classes, dtype):
    if classes < ops.LEAST_CLASSES[kind]:
        pytest.skip("fewer classes than this loss needs")
    assert_loss(kind, *logits_case(kind, 19, classes, dtype))  # 19 rows: no warp is full of whole rows


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_attack_loss_with_every_kind_of_row_in_a_warp(kind):
    # Labels out of range, NaN and infinite logits beside ordinary rows: their threads leave the common path.
    logits, y, extra = logits_case(kind, 8, 10)
    expected = ops.attack_loss(gpu(logits), gpu(y), kind, **gpu(extra))
    logits[1, 3] = float("nan")
    logits[6, 2] = float("inf")
    on_gpu = gpu(y)
    if kind not in ("kl", "bce"):
        on_gpu[2], on_gpu[5] = -1, 10
    loss, grad = ops.attack_loss(gpu(logits), on_gpu, kind, **gpu(extra))
    same = [0, 3, 4, 7]
    assert torch.equal(loss[same], expected[0][same]) and torch.equal(grad[same], expected[1][same])
    assert loss[1].isnan()
    if kind not in ("kl", "bce"):
        assert loss[[2, 5]].isnan().all() and grad[[2, 5]].count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (5, 16), (5, 3, 7, 7), (5, 2048)])
def test_best(shape, dtype):
    best_x, x_adv = torch.rand(shape).to(dtype), torch.rand(shape).to(dtype)
    best_loss = torch.tensor(
        [0.0, 1.0, float("-inf"), 0.5, 2.0], dtype=torch.float64 if shape[1] == 16 else torch.float32
    )
    loss = torch.tensor([1.0, 0.5, -3.0, float("nan"), 2.0], dtype=best_loss.dtype)
    results = gpu(best_x).clone(), gpu(best_loss).clone()
    ops.best_(*results, gpu(x_adv), gpu(loss))
    reference.best_(best_x, best_loss, x_adv, loss)
    assert torch.equal(results[0].cpu(), best_x) and torch.equal(results[1].cpu(), best_loss)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", [1, 5, 33, 256, 257, 4096, 4097])  # one warp, 256 threads, 512 threads
@pytest.mark.parametrize("order", ORDERS)
def test_holistic(order, n, dtype):
    assert_holistic(losses_case("random", n, dtype), 0.1, 0.1, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [5, 257, 4097])
def test_holistic_of_a_loss_that_is_not_finite(n, order):
    losses = losses_case("random", n)
    losses[n // 2] = float("nan")
    assert fastat.holistic_weights(gpu(losses), 0.1, 0.1, order).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 16, 17, 1024, 1025])
def test_benign_cross_entropy(classes, dtype):
    assert_benign(*logits_case("ce", 19, classes, dtype)[:2], gamma=1.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 128), (5, 257), (300, 10)])
def test_scale_rows(shape, dtype):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    rows, weights, scale = torch.randn(shape), torch.rand(shape[0]), torch.tensor(-0.7)
    assert_scaled(rows.to(dtype), weights.to(compute), scale.to(compute))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", [1, 2, 33, 1024, 1025])  # one warp per row, one block per row
@pytest.mark.parametrize("inside", [False, True])
def test_contrast(inside, n, dtype):
    products, labels = products_case(n, dtype)
    for first, last in {(0, min(n, 3)), (n // 2, min(n, n // 2 + 5)), (n - 1, n)}:
        assert_contrast(products, labels, first, last, inside)
