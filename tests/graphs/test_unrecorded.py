"""What cannot be recorded, or only be recognized with care: it says why, and runs as it is."""

import collections
import copy
import random
import types
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from recorded_cases import batch, both, network
from stand_in import StandIn
from torch import nn

import fastat
from fastat.graphs import replay as graphs
from fastat.graphs.replay import CaptureError

pytestmark = pytest.mark.usefixtures("recorder")


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = network(), 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * (1 + 0 * self.calls)


class Draws(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.inner, self.draw = network(), draw

    def forward(self, x):
        return self.inner(x) * (1 + 0.1 * float(self.draw()))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Counts(), "changes the attribute 'calls' of the model"),
        (nn.Sequential(Counts()), "changes the attribute 'calls' of 0"),
        (Draws(random.random), "random numbers on the CPU"),
        (Draws(np.random.rand), "random numbers on the CPU"),
        (Draws(lambda: torch.rand(())), "random numbers on the CPU"),
        (nn.SyncBatchNorm(3), "SyncBatchNorm"),
        (nn.DataParallel(network()), "DataParallel"),
        (lambda x: x.flatten(1), "must be an nn.Module, got a function"),
    ],
)
def test_what_cannot_be_recorded_says_why_and_runs_as_it_is(model, reason):
    x, y = batch(5)
    with pytest.raises(CaptureError, match=reason):
        fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    if isinstance(model, nn.SyncBatchNorm):
        return  # does not run on a CPU
    tried = StandIn.made
    for seed in range(3):
        found = []
        for graph in ("auto", False):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            found.append(fastat.pgd(model, x, y, 0.1, steps=2, graph=graph))
        assert torch.equal(*found) and not torch.equal(found[0], x)
    assert StandIn.made == tried


class Collects(nn.Module):
    """Its forward passes leave something in every kind of container, its own and an object's."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = network(), 0
        self.seen, self.last, self.sizes, self.queue = [], {}, set(), collections.deque(maxlen=3)
        self.log = types.SimpleNamespace(rows=([],), total=0)

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.last[self.calls] = len(x)
        self.sizes.add(self.calls)
        self.queue.append(self.calls)
        self.log.rows[0].append(self.calls)
        self.log.total += 1
        self._buffers[f"made{self.calls}"] = torch.zeros(())
        return self.inner(x)

    def found(self):
        kept = (self.calls, self.seen, self.last, self.sizes, list(self.queue), self.log.rows, self.log.total)
        return copy.deepcopy((*kept, list(self._buffers)))


def test_a_refused_module_keeps_what_plain_attacks_leave_in_it():
    x, y = batch()
    model, other = Collects(), Collects()
    containers = model.seen, model.last, model.sizes, model.queue, model.log.rows[0], model._buffers
    for _ in range(2):
        before = model.found()
        with pytest.raises(CaptureError, match="a forward pass changes"):
            fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
        assert model.found() == before
        for _ in range(3):
            fastat.pgd(model, x, y, 0.1, steps=2, graph="auto")
            fastat.pgd(other, x, y, 0.1, steps=2)
            assert model.found() == other.found()
    assert model.calls == 12
    now = model.seen, model.last, model.sizes, model.queue, model.log.rows[0], model._buffers
    assert all(one is other for one, other in zip(containers, now, strict=True))


def test_where_memory_is_short_the_work_is_done_without_a_recording(monkeypatch):
    @contextmanager
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    class Full(StandIn):
        def record(self, body, tensors):
            raise torch.OutOfMemoryError("CUDA out of memory")

    x, y = batch()
    for name, value in (("left_as_found", full), ("RECORDERS", {"cpu": Full})):
        model = network()
        with monkeypatch.context() as patched:
            patched.setattr(graphs, name, value)
            for graph in ("auto", "auto", True):
                if graph is True:
                    with pytest.raises(CaptureError, match="not enough GPU memory to record"):
                        fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
                else:
                    x_adv = fastat.pgd(model, x, y, 0.1, steps=2, seed=3, graph=graph)
                    assert torch.equal(x_adv, fastat.pgd(model, x, y, 0.1, steps=2, seed=3))
        assert torch.equal(*both(model, x + 0, y, 0.1, steps=2))


class Margin:
    """A loss with everything that makes a callable hard to recognize."""

    __slots__ = ("scale",)
    __hash__ = None

    def __init__(self, scale=1.0):
        self.scale = scale

    def __eq__(self, other):
        assert isinstance(other, str), "compared with another loss"
        return False

    def __call__(self, z, y):
        return self.scale * nn.functional.cross_entropy(z, y, reduction="none")

    def method(self, z, y):
        return self(z, y)


class ReferencedMargin(Margin):
    __slots__ = ("__weakref__",)
    __hash__ = None


def _misclassified(output, y):
    return output.argmax(1) != y


@pytest.mark.parametrize("of", [lambda loss: loss, lambda loss: loss.method], ids=["object", "method"])
def test_a_loss_is_recognized_by_identity(of):
    model = network()
    x, y = batch()
    losses = [ReferencedMargin(), ReferencedMargin(-1.0)]
    for _ in range(2):
        for loss in losses:
            assert torch.equal(*both(model, x, y, 0.1, steps=2, loss=of(loss)))
    assert StandIn.made == 2
    for _ in range(2):  # perhaps at the address of the last one
        losses[1] = None
        losses[1] = ReferencedMargin(-2.0)
        assert torch.equal(*both(model, x, y, 0.1, steps=2, loss=of(losses[1])))
    assert StandIn.made == 4


@pytest.mark.parametrize("of", [lambda loss: loss, lambda loss: loss.method], ids=["object", "method"])
def test_a_loss_that_cannot_be_recognized_is_an_obstacle(of):
    model = network()
    x, y = batch()
    loss = Margin()
    plain = fastat.pgd(model, x, y, 0.1, steps=2, seed=3, loss=of(loss))
    with pytest.raises(CaptureError, match=r"loss cannot be recognized .* Margin"):
        fastat.pgd(model, x, y, 0.1, steps=2, loss=of(loss), graph=True)
    for _ in range(3):
        for early_stop in (False, True):
            arguments = {"seed": 3, "loss": of(loss), "early_stop": early_stop, "won": _misclassified}
            found = fastat.pgd(model, x, y, 0.1, steps=2, **arguments, graph="auto")
            assert early_stop or torch.equal(found, plain)
    assert StandIn.made == 0


def test_cpu_tensors_cannot_be_recorded(monkeypatch):
    monkeypatch.undo()
    model = network()
    x, y = batch()
    with pytest.raises(CaptureError, match="CUDA tensors are needed, got tensors on cpu"):
        fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    for early_stop in (False, True):
        x_adv = fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph="auto", early_stop=early_stop)
        assert torch.equal(x_adv, fastat.pgd(model, x, y, 0.1, steps=2, seed=0, early_stop=early_stop))


def test_a_failure_does_not_stand_in_the_way_of_what_comes_next(monkeypatch):
    class Fails(StandIn):
        def record(self, body, tensors):
            if "targets" in tensors:
                raise CaptureError("not with targets")
            return super().record(body, tensors)

    monkeypatch.setattr(graphs, "RECORDERS", {"cpu": Fails})
    model = network()
    x, y = batch()
    for _ in range(3):
        assert torch.equal(*both(model, x, y, 0.1, steps=2))
        with pytest.raises(CaptureError, match="not with targets"):
            fastat.pgd(model, x, y, 0.1, steps=2, targets=(y + 1) % 5, graph=True)
        fastat.pgd(model, x, y, 0.1, steps=2, targets=(y + 1) % 5, graph="auto")


@pytest.mark.parametrize("make", [lambda: torch.rand(1, 3, 1, 1).expand(1, 3, 8, 8), "inference"])
def test_a_tensor_that_cannot_be_put_back_is_an_obstacle(make):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()
            if make == "inference":
                with torch.inference_mode():
                    self.mask = torch.rand(1, 3, 8, 8)
            else:
                self.mask = make()

        def forward(self, x):
            return self.inner(x * self.mask.clone())

    model, (x, y) = Masked().eval(), batch()
    with pytest.raises(CaptureError, match="expanded or made in inference mode"):
        fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph=True)
    found = [fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph=graph) for graph in ("auto", "auto", False)]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[2])


def test_what_cannot_be_recorded_is_tried_once_whatever_else_fails(monkeypatch):
    model, (x, y) = network(), batch()
    tried = []

    def refuse(self, body, tensors):
        tried.append(len(tensors["x"]))
        raise CaptureError("no")

    monkeypatch.setattr(StandIn, "record", refuse)
    for _ in range(5):
        for n in (3, 5):
            fastat.pgd(model, x[:n], y[:n], 0.1, steps=1, seed=0, graph="auto")
    assert sorted(tried) == [3, 5]
