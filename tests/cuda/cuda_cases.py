"""Inputs for the CUDA tests, and what their results are compared with: the CPU op and the float64 twin."""

import math

import torch

import fastat
from fastat.kernels import objective_ops, ops, reference

DEVICE = torch.device("cuda")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NORMS = ["linf", "l2", "l1"]
P = {"linf": math.inf, "l2": 2, "l1": 1}
ORDERS = ["hd", "hr"]
LOSSES = ["random", "ties", "equal", "zeros", "huge"]
DELAY = 50_000_000  # clock cycles, some 25 ms
EPS = {"linf": 0.1, "l2": 1.0, "l1": 3.0}
SIZE = {"linf": 0.03, "l2": 0.4, "l1": 1.5}


def step_of(norm, where=ops):
    """linf_step_, l2_step_ or l1_step_, of the ops or of the twins."""
    return getattr(where, f"{norm}_step_")


def problem(norm, shape, dtype=torch.float32, seed=0):
    """x_adv inside the ball, a gradient, and x, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    x, noise, grad = (make(shape, generator=g, dtype=torch.float64) for make in (torch.rand, torch.randn, torch.randn))
    x, grad = x.to(dtype), grad.to(dtype)
    return ops.project_((x + 0.05 * noise).to(dtype), x, EPS[norm], norm), grad, x


def losses_case(kind, n, dtype=torch.float32, seed=0):
    """Losses of a batch, on the CPU: ties everywhere, all equal, most of them zero, or one that dwarfs the others."""
    losses = torch.empty(n, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(seed))
    if kind == "ties":
        losses = (4 * losses).round() / 4
    elif kind == "equal":
        losses = torch.full_like(losses, 0.7)
    elif kind == "zeros":
        losses = torch.where(losses < 2, 0.0, losses)
    elif kind == "huge":
        losses[n // 2] = 1e30
    return losses.to(dtype)


def products_case(n, dtype=torch.float32, seed=0):
    """Products of normalized features, and labels of four classes in the integer type of the kernels, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(n, 16, generator=g, dtype=dtype), dim=1)
    labels = torch.randint(4, (n,), generator=g)
    return features @ features.T, labels.to(torch.int64 if dtype == torch.float64 else torch.int32)


def gpu(value):
    """A tensor, or the tensors in a dict, on the device, strides kept."""
    if isinstance(value, dict):
        return {k: gpu(v) for k, v in value.items()}
    return value.to(DEVICE)


def copy64(t):
    """A float64 copy, also of float64 data: the twins work in place too."""
    return t.to(torch.float64, copy=True)


def misaligned(t):
    """The same numbers, contiguous, one element after an aligned address."""
    storage = t.new_empty(t.numel() + 1)
    return storage[1:].view(t.shape).copy_(t)


def norms(delta, norm):
    """Norm of every sample, in float64."""
    return torch.linalg.vector_norm(delta.double().flatten(1), P[norm], dim=1)


def assert_step(norm, x_adv, grad, x, step_size, eps, lower=0.0, upper=1.0):
    """Steps the GPU copies of CPU inputs and compares with the CPU op and the twin; returns the result.

    linf: the same bits. l2 and l1: sums in another order, so the rounding of float32 (of float64 for float64 data), and
    for half precision one unit in the last place where that decides between two neighbours.
    """
    on_gpu = gpu(x_adv).clone()
    result = step_of(norm)(on_gpu, gpu(grad), gpu(x), *map(_gpu_if_tensor, (step_size, eps, lower, upper)))
    assert result is on_gpu
    on_cpu = step_of(norm)(x_adv.clone(), grad, x, step_size, eps, lower, upper)
    exact = step_of(norm, reference)(
        copy64(x_adv), grad.double(), x.double(), *map(_double, (step_size, eps, lower, upper))
    )
    assert_points(norm, result, on_cpu, exact, _largest(step_size) + _largest(eps))
    return result


def assert_points(norm, result, on_cpu, exact, reach=1.0):
    """Compares what a step or projection made on the GPU with the CPU's bits or rounding, and with the exact answer."""
    dtype = on_cpu.dtype
    if norm == "linf":
        assert torch.equal(result.cpu(), on_cpu)
    half = dtype in (torch.float16, torch.bfloat16)
    unit = {torch.float64: 1e-15, torch.float32: 3e-7}.get(dtype, torch.finfo(dtype).eps)
    atol = unit if half else unit * (1 + reach)
    if norm == "l1" and dtype == torch.float64:
        atol *= len(result[0].flatten())  # sums of that many entries decide, and the twin takes them one by one
    torch.testing.assert_close(result.cpu(), on_cpu, rtol=0, atol=atol)
    torch.testing.assert_close(result.cpu().double(), exact, rtol=0, atol=atol)


def assert_loss(kind, logits, y, extra):
    """Compares loss and gradient on the GPU with the CPU op and the twin; returns the GPU's."""
    loss, grad = ops.attack_loss(gpu(logits), gpu(y), kind, **gpu(extra))
    cpu_loss, cpu_grad = ops.attack_loss(logits, y, kind, **extra)
    double = {k: _double(v) for k, v in extra.items()}
    exact_loss, exact_grad = reference.attack_loss(logits.double(), y, kind, **double)
    arithmetic = 1e-13 if logits.dtype == torch.float64 else 2e-6
    rounding = max(arithmetic, torch.finfo(logits.dtype).eps)
    largest = exact_grad.abs().max().item() if exact_grad.numel() else 0.0
    for expected, expected_grad in ((cpu_loss.double(), cpu_grad.double()), (exact_loss, exact_grad)):
        torch.testing.assert_close(loss.double().cpu(), expected, rtol=arithmetic, atol=arithmetic)
        torch.testing.assert_close(grad.double().cpu(), expected_grad, rtol=rounding, atol=rounding * largest)
    assert loss.dtype == cpu_loss.dtype and grad.dtype == logits.dtype and grad.shape == logits.shape
    return loss, grad


def assert_holistic(losses, alpha, r, order):
    """Compares the HR weights and value on the GPU with those of the CPU op; returns the GPU's weights.

    Both decide in float64 and differ in the order of its sums, which a weight of float32 does not show.
    """
    weights, value = holistic(gpu(losses), alpha, r, order)
    cpu_weights, cpu_value = holistic(losses, alpha, r, order)
    tolerance = 1e-9 if losses.dtype == torch.float64 else 2.5e-7
    where = f"N = {len(losses)}, alpha = {alpha}, r = {r}, {order}"
    assert weights.dtype == value.dtype == losses.dtype and weights.device == gpu(losses).device, where
    off = (weights.cpu() - cpu_weights).abs().double() / (cpu_weights.double() + 1 / len(losses))
    assert off.max() <= tolerance, f"weights off by {off.max():.1e}: {where}"
    torch.testing.assert_close(value.cpu(), cpu_value, rtol=tolerance, atol=0, msg=lambda text: f"{text} {where}")
    return weights


def holistic(losses, alpha, r, order="hd"):
    """Weights and value by the public functions."""
    return fastat.holistic_weights(losses, alpha, r, order), fastat.holistic_loss(losses, alpha, r, order)


def assert_benign(logits, y, gamma):
    """Compares losses, gradient and weights of BAT on the GPU with the CPU op, the weights also with the twin."""
    results = objective_ops.benign_cross_entropy(gpu(logits), gpu(y), gamma)
    arithmetic = 1e-13 if logits.dtype == torch.float64 else 2e-6
    rounding = max(arithmetic, torch.finfo(logits.dtype).eps)
    on_cpu = objective_ops.benign_cross_entropy(logits, y, gamma)
    for result, expected, atol in zip(results, on_cpu, (arithmetic, rounding, arithmetic), strict=True):
        torch.testing.assert_close(result.cpu(), expected, rtol=max(arithmetic, atol), atol=atol)
    exact = reference.benign_weights(logits.double(), y, gamma)
    torch.testing.assert_close(results[2].cpu().double(), exact, rtol=0, atol=arithmetic)


def assert_scaled(rows, weights, scale):
    """Compares a scaling of rows on the GPU with the CPU op's bits."""
    result = objective_ops.scale_rows(gpu(rows), gpu(weights), gpu(scale))
    assert torch.equal(result.cpu(), objective_ops.scale_rows(rows, weights, scale))


def assert_contrast(products, labels, first, last, inside):
    """Compares rows first .. last - 1 of the discrimination loss, forward and backward, on the GPU with the CPU op.

    The exponentials are in float32 for float32 products. The sums of the rows go to the second column and on.
    """
    tolerance = 1e-13 if products.dtype == torch.float64 else 5e-6
    tau, scale, n = 0.1, torch.tensor(0.3, dtype=products.dtype), len(products)
    of_all = products.new_empty(4, n)
    objective_ops.contrast_rows_(of_all, products, labels, 0, 0, 1 / tau, inside)
    found = gpu(products.new_full((4, last - first + 2), -1.0))
    rows = gpu(products[first:last]).clone()
    objective_ops.contrast_rows_(found, rows, gpu(labels), 1, first, 1 / tau, inside)
    assert torch.equal(rows.cpu(), products[first:last]) and (found[:, [0, -1]] == -1).all()
    torch.testing.assert_close(found[:, 1:-1].cpu(), of_all[:, first:last], rtol=tolerance, atol=tolerance)
    objective_ops.contrast_gradient_(rows, gpu(labels), gpu(of_all), gpu(scale), first, 1 / tau, inside)
    expected = products[first:last].clone()
    objective_ops.contrast_gradient_(expected, labels, of_all, scale, first, 1 / tau, inside)
    torch.testing.assert_close(rows.cpu(), expected, rtol=2 * tolerance, atol=tolerance)


def captured(work):
    """A CUDA graph of the work, and what it returned while it was recorded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph, result


def _gpu_if_tensor(value):
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def _double(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _largest(value):
    if not isinstance(value, torch.Tensor):
        return float(value)
    return float(value.max()) if value.numel() else 0.0
