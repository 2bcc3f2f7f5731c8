"""Streams, CUDA graphs, the compiler and a second device: where a kernel runs and when."""

import pytest
import torch
from cuda_cases import DELAY, DEVICE, EPS, NORMS, SIZE, captured, gpu, problem, step_of
from loss_cases import logits_case, op_arguments

from fastat.kernels import ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [63, 3072, 24_001])  # the last: l1 of half precision in a workspace
@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_step_replays_on_new_numbers(norm, n, dtype):
    fixed = [gpu(t).clone() for t in problem(norm, (3, n), dtype, seed=1)]
    eps = torch.full((3,), EPS[norm], device=DEVICE)
    graph, _ = captured(lambda: step_of(norm)(*fixed, SIZE[norm], eps))
    for seed in (2, 3):
        fresh = [gpu(t) for t in problem(norm, (3, n), dtype, seed)]
        for to, t in zip(fixed, fresh, strict=True):
            to.copy_(t)
        eps.fill_(EPS[norm] / seed)
        graph.replay()
        assert torch.equal(fixed[0], step_of(norm)(fresh[0].clone(), *fresh[1:], SIZE[norm], eps))


@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_projection(norm):
    x_adv, noise, x = (gpu(t).clone() for t in problem(norm, (3, 65)))
    graph, _ = captured(lambda: ops.project_(x_adv, x, EPS[norm], norm))
    x_adv.copy_(x + noise)
    graph.replay()
    assert torch.equal(x_adv, ops.project_(x + noise, x, EPS[norm], norm))


@pytest.mark.parametrize("norm", NORMS)
def test_a_captured_start_can_be_reseeded(norm):
    x, seed = torch.rand(4, 3, 8, 8, device=DEVICE), torch.tensor(1, device=DEVICE)
    ids = torch.arange(4, device=DEVICE)
    graph, start = captured(lambda: ops.random_start(x, EPS[norm], norm, seed, ids))
    for value in (2, 3):
        seed.fill_(value)
        ids.add_(10)
        graph.replay()
        assert torch.equal(start, ops.random_start(x, EPS[norm], norm, value, ids))


@pytest.mark.parametrize("classes", [10, 100, 2000])
@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_a_captured_loss(kind, classes):
    logits, y, extra = (gpu(t) for t in logits_case(kind, 9, classes))
    logits, y = logits.clone(), y.clone()
    graph, (loss, grad) = captured(lambda: ops.attack_loss(logits, y, kind, **extra))
    logits.mul_(-0.5)
    graph.replay()
    expected = ops.attack_loss(logits, y, kind, **extra)
    assert torch.equal(loss, expected[0]) and torch.equal(grad, expected[1])


def test_a_captured_best():
    best_x, best_loss = torch.zeros(4, 3, 5, device=DEVICE), torch.zeros(4, device=DEVICE)
    x_adv, loss = torch.rand(4, 3, 5, device=DEVICE), torch.zeros(4, device=DEVICE)
    graph, _ = captured(lambda: ops.best_(best_x, best_loss, x_adv, loss))
    loss.copy_(torch.tensor([1.0, -1.0, 2.0, 0.0]))
    graph.replay()
    assert torch.equal(best_x[[0, 2]], x_adv[[0, 2]]) and best_x[[1, 3]].count_nonzero() == 0
    assert best_loss.tolist() == [1.0, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("norm", NORMS)
def test_steps_and_starts_wait_for_their_own_stream(norm):
    x_adv, grad, x = map(gpu, problem(norm, (3, 64)))
    expected = step_of(norm)(x_adv.clone(), grad, x, SIZE[norm], EPS[norm])
    start = ops.random_start(x, EPS[norm], norm, seed=1)
    late_adv, late_x = torch.zeros_like(x_adv), torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(DELAY)  # on another stream the kernels would find zeros
        late_adv.copy_(x_adv)
        late_x.copy_(x)
        step_of(norm)(late_adv, grad, late_x, SIZE[norm], EPS[norm])
        late_start = ops.random_start(late_x, EPS[norm], norm, seed=1)
    side.synchronize()
    assert torch.equal(late_adv, expected) and torch.equal(late_start, start)


def test_losses_wait_for_their_own_stream():
    logits, y, _ = logits_case("ce", 9, 10)
    expected = ops.attack_loss(gpu(logits), gpu(y))
    ready, labels = gpu(logits), gpu(y)
    late = torch.zeros_like(ready)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(DELAY)
        late.copy_(ready)
        loss, grad = ops.attack_loss(late, labels)
    side.synchronize()
    assert torch.equal(loss, expected[0]) and torch.equal(grad, expected[1])


@pytest.mark.parametrize("norm", NORMS)
def test_opcheck_steps(norm):
    x_adv, grad, x = map(gpu, problem(norm, (3, 2, 4)))
    radii, sizes = torch.rand(3, device=DEVICE), torch.rand(3, device=DEVICE)
    extra = (1,) if norm == "l1" else ()
    op = getattr(torch.ops.fastat, f"{norm}_step_").default
    ends = torch.zeros(1, 2, 4, device=DEVICE), torch.ones(3, 2, 4, device=DEVICE)
    torch.library.opcheck(op, (x_adv, grad, x, 0.1, 0.2, sizes, radii, 0.0, 1.0, None, None, *extra))
    torch.library.opcheck(op, (x_adv, grad, x, 0.1, 0.2, None, None, 0.0, 1.0, *ends, *extra))
    args = (x_adv, x, 0.2, None, NORMS.index(norm), 0.0, 1.0, None, None)
    torch.library.opcheck(torch.ops.fastat.project_.default, args)
    args = (
        x,
        0.1,
        None,
        NORMS.index(norm),
        torch.tensor(3, device=DEVICE),
        torch.arange(3, device=DEVICE),
        0,
        0.0,
        1.0,
        None,
        None,
    )
    torch.library.opcheck(torch.ops.fastat.random_start.default, args)


def test_opcheck_loss_and_best():
    for kind in ops.LOSS_KINDS:
        logits, y, extra = (gpu(t) for t in logits_case(kind, 4, 6))
        args = op_arguments(kind, logits.requires_grad_(), y, extra)
        torch.library.opcheck(torch.ops.fastat.attack_loss.default, args)
    x = torch.rand(3, 4, device=DEVICE)
    args = (x.clone(), torch.rand(3, device=DEVICE), x, torch.rand(3, device=DEVICE))
    torch.library.opcheck(torch.ops.fastat.best_.default, args)


@pytest.mark.parametrize("norm", NORMS)
def test_compiled(norm):
    x_adv, grad, x = map(gpu, problem(norm, (3, 2, 4)))

    def two_steps(x_adv, grad, x):
        x_adv = x_adv.clone()
        step_of(norm)(x_adv, grad, x, SIZE[norm], EPS[norm])
        step_of(norm)(x_adv, -grad, x, SIZE[norm], EPS[norm])
        return x_adv * 2

    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x_adv, grad, x), two_steps(x_adv, grad, x))


def test_a_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device here")
    for norm in NORMS:
        x_adv, grad, x = problem(norm, (3, 24_001), torch.bfloat16)
        there = [t.to("cuda:1") for t in (x_adv, grad, x)]
        step_of(norm)(*there, SIZE[norm], EPS[norm])
        assert torch.equal(there[0].cpu(), step_of(norm)(*map(gpu, (x_adv, grad, x)), SIZE[norm], EPS[norm]).cpu())
        start = ops.random_start(there[2], EPS[norm], norm, seed=1)
        assert torch.equal(start.cpu(), ops.random_start(gpu(x), EPS[norm], norm, seed=1).cpu())
    logits, y, _ = logits_case("ce", 5, 10)
    loss, _ = ops.attack_loss(logits.to("cuda:1"), y.to("cuda:1"))
    assert loss.device.index == 1 and torch.equal(loss.cpu(), ops.attack_loss(gpu(logits), gpu(y))[0].cpu())
    assert torch.cuda.current_device() == 0
