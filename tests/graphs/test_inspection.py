"""Which changes of a module its recordings notice."""

import collections
import gc
import types
import weakref

import pytest
import torch
from recorded_cases import batch, both, network
from stand_in import StandIn
from torch import nn

import fastat
from fastat.graphs.inspection import survey
from fastat.graphs.replay import CaptureError

pytestmark = pytest.mark.usefixtures("recorder")


def test_weights_moved_in_place_are_seen():
    model = network()
    x, y = batch()
    both(model, x, y, 0.1, steps=3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    assert torch.equal(*both(model, x, y, 0.1, steps=3))
    assert StandIn.made == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach().clone())),
        lambda model: setattr(model[0].weight, "data", model[0].weight.data.clone()),
        lambda model: model[1].running_mean.set_(torch.ones(8)),
        lambda model: setattr(model, "2", nn.GELU()),
        lambda model: model[0].register_forward_hook(lambda module, args, output: 2 * output),
        lambda model: model[0].register_forward_pre_hook(lambda module, args: (2 * args[0],)),
        lambda model: setattr(model[1], "eps", 1e-3),
        lambda model: setattr(model[3], "output_size", (4, 4)),
        lambda model: setattr(model[2], "forward", torch.tanh),
    ],
    ids=[
        "parameter replaced", "data replaced", "buffer replaced", "module replaced", "hook", "pre-hook", "attribute",
        "tuple", "forward",
    ],
)  # fmt: skip
def test_a_module_that_changed_is_recorded_anew(change):
    model = network()
    x, y = batch()
    both(model, x, y, 0.1, steps=2)
    change(model)
    assert torch.equal(*both(model, x, y, 0.1, steps=2))
    assert StandIn.made == 2


def test_hooks_that_come_and_go_are_seen():
    model = network()
    x, y = batch()
    for factor in (1.0, 2.0, 3.0):
        handle = model[0].register_forward_hook(lambda module, args, output, factor=factor: factor * output)
        assert torch.equal(*both(model, x, y, 0.1, steps=2))
        handle.remove()
    assert StandIn.made == 3


class Keeps(nn.Module):
    """Keeps what it calls where torch does not look."""

    def __init__(self):
        super().__init__()
        self.inner, self.hidden, self.act = network(), [network(seed=1).train()], torch.relu
        self.settings = types.SimpleNamespace(scale=1.0)
        self.factors = nn.ParameterList(torch.ones(()) for _ in range(70))
        self.count = torch.zeros(())

    def forward(self, x):
        self.count += 1
        z = self.inner(x) + self.act(self.hidden[0](x)) * self.settings.scale
        return z * self.factors[69]


def test_what_is_kept_in_plain_attributes_is_left_as_found():
    model = Keeps()
    x, y = batch()
    assert torch.equal(*both(model, x, y, 0.1, steps=2))
    assert model.count == 4 and model.hidden[0][1].num_batches_tracked == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.hidden[0].__setitem__(-1, nn.Linear(128, 5)),
        lambda model: model.hidden[0].eval(),
        lambda model: setattr(model, "hidden", [network(seed=2)]),
        lambda model: setattr(model.settings, "scale", -3.0),
        lambda model: model.factors.__setitem__(69, nn.Parameter(torch.tensor(-1.0))),
        lambda model: setattr(model, "act", torch.tanh),
    ],
    ids=["submodule", "mode", "list", "settings", "long parameter list", "function"],
)
def test_changes_in_plain_attributes_are_seen(change):
    model = Keeps()
    x, y = batch()
    before = both(model, x, y, 0.1, steps=2)
    change(model)
    after = both(model, x, y, 0.1, steps=2)
    assert torch.equal(*after) and not torch.equal(before[0], after[0])


def settings(**changes):
    """An object as models keep it, with something of every kind."""
    held = {
        "scales": [1.0], "table": {"a": 1.0}, "tensor": torch.ones(()), "act": torch.relu, "inner": None,
        "counts": collections.defaultdict(int, n=1), "steps": collections.deque([1.0]),
    }  # fmt: skip
    return types.SimpleNamespace(**(held | changes))


class Configured(nn.Module):
    """Reads all that an object holds, and an object within it."""

    def __init__(self):
        super().__init__()
        self.inner, self.cfg = network(), settings(inner=settings())
        self.method = Scales(1.0).scale

    def forward(self, x):
        z = self.inner(x)
        for cfg in (self.cfg, self.cfg.inner):
            z = z + cfg.act(z) * cfg.tensor * cfg.scales[0] * cfg.table["a"] * cfg.counts["n"] * cfg.steps[0]
        return self.method(z)


class Scales:
    def __init__(self, factor):
        self.factor = [factor]

    def scale(self, z):
        return z * self.factor[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda cfg: setattr(cfg, "scales", [-3.0]),
        lambda cfg: cfg.scales.__setitem__(0, -3.0),
        lambda cfg: setattr(cfg, "table", {"a": -3.0}),
        lambda cfg: cfg.table.update(a=-3.0),
        lambda cfg: setattr(cfg, "tensor", torch.tensor(-3.0)),
        lambda cfg: setattr(cfg, "act", torch.tanh),
        lambda cfg: cfg.counts.update(n=-3),
        lambda cfg: cfg.steps.__setitem__(0, -3.0),
        lambda cfg: vars(cfg).update(vars(settings(scales=[-3.0], inner=cfg.inner))),
    ],
    ids=["list", "in a list", "dict", "in a dict", "tensor", "function", "defaultdict", "deque", "all"],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_changes_in_objects_are_seen(change, depth):
    model = Configured()
    x, y = batch()
    before = both(model, x, y, 0.1, steps=2)
    change(model.cfg if depth == 0 else model.cfg.inner)
    after = both(model, x, y, 0.1, steps=2)
    assert torch.equal(*after) and not torch.equal(before[0], after[0])
    assert torch.equal(*both(model, x, y, 0.1, steps=2)) and StandIn.made == 2


def test_tensors_that_objects_hold_are_read_at_every_replay():
    model = Configured()
    x, y = batch()
    for factor in (1.0, -3.0):
        model.cfg.inner.tensor.fill_(factor)
        assert torch.equal(*both(model, x, y, 0.1, steps=2))
    assert StandIn.made == 1


def test_an_object_that_a_bound_method_belongs_to_is_looked_into():
    model = Configured()
    x, y = batch()
    for factor in (1.0, -3.0):
        model.method.__self__.factor[0] = factor
        assert torch.equal(*both(model, x, y, 0.1, steps=2))
    assert StandIn.made == 2


def test_only_objects_of_torch_itself_are_not_looked_into():
    model = network()
    for name in ("torchvision.ops", "torch_geometric", "torch.optim"):
        kind = type("Kind", (), {"__module__": name})
        model.held = kind()
        before = survey(model).state
        assert survey(model).state == before
        model.held.scale = 2.0
        assert (survey(model).state == before) == (name == "torch.optim")


def test_objects_that_hold_each_other_are_looked_into_once():
    model = network()
    one, other = settings(), settings()
    one.inner, other.inner = [other], {"one": one, "model": model, "itself": other}
    model.one, model.others = one, [other] * 50
    found = survey(model)
    assert sorted(map(id, found.objects)) == sorted([id(one), id(other)])
    assert found.state == survey(model).state
    model.others = [other]
    assert len(found.tensors) == len(survey(model).tensors)
    x, y = batch()
    assert torch.equal(*both(model, x, y, 0.1, steps=2))
    gone = weakref.ref(model)
    del model, one, other, found
    gc.collect()
    assert gone() is None


def test_an_object_met_again_nearer_to_the_module_is_looked_into_deeper():
    model = network()
    shared = settings(scales=[[[1.0]]])
    model.far, model.near = [[[shared]]], shared
    before = survey(model).state
    shared.scales[0][0][0] = 2.0
    assert survey(model).state != before


def test_an_address_that_is_used_again_is_another_function():
    model = Keeps()
    x, y = batch()
    for factor in range(1, 4):
        model.act = None
        model.act = lambda z, factor=factor: factor * z
        assert torch.equal(*both(model, x, y, 0.1, steps=2))


def test_tensors_without_a_place_in_memory_are_an_obstacle():
    model = network()
    model.register_buffer("table", torch.eye(3).to_sparse())
    x, y = batch()
    with pytest.raises(CaptureError, match="memory of a tensor of the model cannot be told"):
        fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    fastat.pgd(model, x, y, 0.1, steps=2, graph="auto")
