"""What an in-place op may write: no tensor that shares memory with itself or an input. A refusal writes nothing."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastat.kernels import ops
from fastat.kernels.overlap import check_written


def shifted():
    """Views of one buffer: the second begins an entry after the first."""
    buffer = torch.rand(13)
    return buffer[:12].view(2, 6), buffer[1:].view(2, 6)


def interlaced():
    buffer = torch.rand(2, 6, 2)
    return buffer[..., 0], buffer[..., 1]


CALLS = {
    "linf": lambda a, g, x: ops.linf_step_(a, g, x, 0.1, 0.2),
    "l2": lambda a, g, x: ops.l2_step_(a, g, x, 0.1, 0.2),
    "l1": lambda a, g, x: ops.l1_step_(a, g, x, 0.1, 0.2),
    "project": lambda a, g, x: ops.project_(a, x, 0.2, "l2"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_written_tensor_shares_no_memory_with_an_input(name):
    one, other = shifted()
    x, grad = torch.rand(2, 6), torch.rand(2, 6)
    cases = [("x", one, grad, one), ("x", one, grad, other), ("x", one.view(1, 12)[0].view(2, 6), grad, one)]
    if name != "project":
        cases += [("grad", one, one, x), ("grad", other, one, x)]
    for what, x_adv, g, centre in cases:
        before = [t.clone() for t in (x_adv, g, centre)]
        with pytest.raises(ValueError, match=rf"x_adv, which is written, shares memory with {what}: .*clone"):
            CALLS[name](x_adv, g, centre)
        assert all(map(torch.equal, before, (x_adv, g, centre)))


@pytest.mark.parametrize("name", CALLS)
def test_an_expanded_tensor_is_not_written(name):
    x, grad = torch.rand(2, 6), torch.rand(2, 6)
    for x_adv in (torch.rand(1, 6).expand(2, 6), torch.rand(7).unfold(0, 6, 1)):
        before = x_adv.clone()
        with pytest.raises(ValueError, match="x_adv has entries that share memory"):
            CALLS[name](x_adv, grad, x)
        assert torch.equal(x_adv, before)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_only_read_may_be_expanded_and_overlap(name):
    grad, x = torch.rand(1, 6).expand(2, 6), torch.rand(2, 1).expand(2, 6)
    x_adv = torch.rand(2, 6)
    expected = CALLS[name](x_adv.clone(), grad.contiguous(), x.contiguous())
    assert torch.equal(CALLS[name](x_adv.clone(), grad, x), expected)
    assert torch.equal(CALLS[name](x_adv.clone(), x, x), CALLS[name](x_adv.clone(), x.contiguous(), x.contiguous()))


@pytest.mark.parametrize("name", CALLS)
def test_views_of_one_buffer_that_share_no_entry(name):
    x_adv, x = interlaced()
    grad = torch.rand(2, 6)
    expected = CALLS[name](x_adv.clone(), grad, x.clone())
    kept = x.clone()
    assert torch.equal(CALLS[name](x_adv, grad, x), expected)
    assert torch.equal(x, kept)


def test_a_size_is_an_input_too():
    x_adv, x = torch.rand(2, 6), torch.rand(2, 6)
    for argument in ("step_size", "eps", "lower", "upper"):
        sizes = {"step_size": 0.1, "eps": 0.2, "lower": 0.0, "upper": 1.0} | {argument: x_adv}
        with pytest.raises(ValueError, match=f"shares memory with {argument}"):
            ops.linf_step_(x_adv, x, x, **(sizes if argument != "lower" else {**sizes, "upper": 2.0}))


def test_best_writes_nothing_when_it_refuses():
    best_x, best_loss, x_adv, loss = torch.zeros(2, 6), torch.zeros(2), torch.ones(2, 6), torch.ones(2)
    calls = [
        ((best_x, best_loss.requires_grad_(), x_adv, loss), RuntimeError, "best_loss requires grad"),
        ((best_x, torch.zeros(1).expand(2), x_adv, loss), ValueError, "best_loss has entries that share memory"),
        ((best_x, loss, x_adv, loss), ValueError, "best_loss, which is written, shares memory with loss"),
        ((x_adv, torch.zeros(2), x_adv, loss), ValueError, "best_x, which is written, shares memory with x_adv"),
    ]
    for arguments, error, message in calls:
        before = [t.detach().clone() for t in arguments]
        with pytest.raises(error, match=message):
            ops.best_(*arguments)
        assert all(map(torch.equal, before, [t.detach() for t in arguments]))


def overlaps_itself(t):
    return len(set(indices(t).flatten().tolist())) < t.numel()


def indices(t):
    """Where its entries stand, from the first one, by counting."""
    parts = [stride * torch.arange(size) for stride, size in zip(t.stride(), t.shape, strict=True)]
    return parts[0][:, None, None] + parts[1][:, None] + parts[2]


def test_where_views_meet_is_found_exactly():
    """Against marking every entry, for views of one buffer at random."""
    g = torch.Generator().manual_seed(0)

    def draw(n):
        return int(torch.randint(n, (), generator=g))

    met = 0
    for _ in range(400):
        buffer = torch.zeros(600)
        shape = [1 + draw(3) for _ in range(3)]
        strides = [sorted([1 + draw(4), 4 + draw(12), 12 + draw(40)], reverse=draw(2) == 0) for _ in range(2)]
        strides[1] = strides[0] if draw(2) else strides[1]
        one, other = (buffer.as_strided(shape, stride, draw(60)) for stride in strides)
        other.fill_(1)
        overlap = bool((one == 1).any())
        met += overlap
        with pytest.raises(ValueError, match="share") if overlap or overlaps_itself(one) else nullcontext():
            check_written(one, "one", other=other)
    assert 100 < met < 350


def test_tracers_have_no_memory_to_share():
    with FakeTensorMode():
        x_adv, grad, x = (torch.empty(2, 6) for _ in range(3))
        assert ops.linf_step_(x_adv, grad, x, 0.1, 0.2) is x_adv


@pytest.mark.parametrize("name", CALLS)
def test_tensors_made_in_inference_mode_are_written_in_any_layout(name):
    grad, x = torch.rand(3, 2, 4), torch.rand(3, 2, 4)
    start = torch.rand(3, 2, 4)
    expected = CALLS[name](start.clone(), grad, x)
    for order in ((0, 1, 2), (2, 1, 0)):
        with torch.inference_mode():
            x_adv = torch.empty([start.shape[d] for d in order]).permute(order).copy_(start)
        assert torch.equal(CALLS[name](x_adv, grad, x), expected)
