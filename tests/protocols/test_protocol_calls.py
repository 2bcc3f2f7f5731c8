"""Protocols in loops of one's own, in one process, and on models of every kind."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastat
from fastat.kernels import ops
from fastat.protocols import perturbed_weights


def network(normalized=False, seed=0):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(4) if normalized else nn.Identity()
    layers = [nn.Conv2d(1, 4, 3, padding=1), norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, 12), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(12, 3)).double()


def batch(n=12):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=g), torch.arange(n)


def gradients(model):
    return [p.grad for p in model.parameters()]


def same(these, those, atol=1e-12):
    for one, other in zip(these, those, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


PROTOCOLS = {
    "pgd-at": fastat.protocol("pgd-at", eps=0.1, steps=3),
    "trades": fastat.protocol("trades", eps=0.1, steps=3),
    "mart": fastat.protocol("mart", eps=0.1, steps=2),
    "rs-fgsm": fastat.protocol("rs-fgsm", eps=0.1),
    "gradalign": fastat.protocol("gradalign", eps=0.1),
    "hr": fastat.protocol("hr", eps=0.1, steps=2),
    "bat": fastat.protocol("bat", eps=0.1, steps=2),
}
OF_A_BATCH = ("hr", "bat")


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_the_call_is_the_loss_of_the_outcome(name):
    model, (x, y, ids) = network(), batch()
    loss = PROTOCOLS[name](model, x, y, seed=4, sample_ids=ids)
    found = PROTOCOLS[name].outcome(model, x, y, seed=4, sample_ids=ids)
    assert torch.equal(loss, found.loss) and loss.shape == () and loss.requires_grad
    assert torch.equal(found.logits, model(found.x_adv)) and found.x_adv.shape == x.shape
    assert torch.equal(found.x_adv, PROTOCOLS[name].attack(model, x, y, seed=4, sample_ids=ids))
    assert float((found.x_adv - x).abs().max()) == pytest.approx(0.1)
    assert all(p.grad is None for p in model.parameters()) and not x.requires_grad


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name not in OF_A_BATCH])
def test_gradients_of_micro_batches_add_up(name):
    protocol, (x, y, ids) = PROTOCOLS[name], batch()
    whole, parts = network(), network()
    protocol(whole, x, y, seed=2, sample_ids=ids).backward()
    for part in torch.arange(12).chunk(4):
        (protocol(parts, x[part], y[part], seed=2, sample_ids=ids[part]) / 4).backward()
    same(gradients(parts), gradients(whole))


def test_randomness_is_of_seed_and_id():
    model, (x, y, ids) = network(), batch()
    attack = PROTOCOLS["pgd-at"].attack
    one = attack(model, x, y, seed=1, sample_ids=ids)
    assert torch.equal(one[3:7], attack(model, x[3:7], y[3:7], seed=1, sample_ids=ids[3:7]))
    assert torch.equal(one, attack(model, x, y, seed=1))
    assert not torch.equal(one, attack(model, x, y, seed=2))
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append([PROTOCOLS["gradalign"](model, x, y).item() for _ in range(2)])
    assert losses[0] == losses[1] != losses[2] and losses[0][0] != losses[0][1]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_modes_and_statistics(mode):
    model, (x, y, _) = network(normalized=True).train(), batch()
    model[2].eval()
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(module.training))
    loss = fastat.protocol("pgd-at", eps=0.1, steps=2, mode=mode)(model, x, y)
    assert seen == [mode == "train"] * 2 + [True]
    assert [m.training for m in model] == [True, True, False, True, True, True, True] and model.training
    assert int(model[1].num_batches_tracked) == (3 if mode == "train" else 1)
    loss.backward()
    model.eval()
    fastat.protocol("pgd-at", eps=0.1, steps=2, mode=mode)(model, x, y)
    assert not any(m.training for m in model.modules())


class Merging(nn.Linear):
    """Changes its weights with its mode, as adapters do that merge into them for inference."""

    def train(self, mode=True):
        if mode != self.training:
            with torch.no_grad():
                self.weight.add_(-1.0 if mode else 1.0)
        return super().train(mode)


def test_a_module_that_does_something_when_its_mode_changes():
    model = nn.Sequential(nn.Flatten(), Merging(16, 3)).double()
    before = model[1].weight.detach().clone()
    x, y, _ = batch()
    PROTOCOLS["trades"](model, x, y)
    torch.testing.assert_close(model[1].weight.detach(), before, rtol=0, atol=1e-12)
    assert model[1].training
    for mixed in (model, model[1]):  # one within another of the other mode
        model.train()
        mixed.eval()
        model.training = mixed is not model
        merged = model[1].weight.detach().clone()
        PROTOCOLS["trades"](model, x, y)
        torch.testing.assert_close(model[1].weight.detach(), merged, rtol=0, atol=1e-12)


def textbook(model, x, y, start, autocast):
    """PGD-2 and the cross-entropy there, as the field writes it."""
    x_adv = start
    for _ in range(2):
        x_adv = x_adv.detach().requires_grad_()
        with autocast():
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = (x + (x_adv + 0.125 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    with autocast():
        return F.cross_entropy(model(x_adv.detach()), y), x_adv.detach()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_the_plain_loop_in_any_precision(dtype):
    def autocast():
        return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)

    x, y, _ = batch()
    x = x.float() if dtype else x
    models = [network().float() if dtype else network() for _ in range(2)]
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=1024.0)
    start = ops.random_start(x, 0.1, "linf", 5)
    expected, x_adv = textbook(models[0], x, y, start, autocast)
    protocol = fastat.protocol("pgd-at", eps=0.1, steps=2)
    with autocast():
        found = protocol.outcome(models[1], x, y, seed=5)
    differs = (found.x_adv - x_adv).abs() > 1e-6  # where a half-precision gradient is rounded to another sign, or to 0
    assert float(differs.double().mean()) <= (0.0 if dtype is None else 0.1)
    if dtype is None:
        torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-12)
    optimizer = torch.optim.SGD(models[1].parameters(), lr=0.1)
    before = [p.detach().clone() for p in models[1].parameters()]
    scaler.scale(found.loss).backward()
    scaler.step(optimizer)
    assert all(not torch.equal(old, p.detach()) for old, p in zip(before, models[1].parameters(), strict=True))


def vanishing():
    """A network whose gradient to the input is some 1e-8 for a sample: below float16's smallest number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight *= 1e-3
        model[3].weight *= 1e-4
    return model


class Inside(nn.Module):
    """Runs in float16 by itself and returns float32, as Accelerate has it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.float16):
            return self.inner(x).float()


def test_gradients_in_float16_do_not_vanish():
    model, (x, y, _) = vanishing(), batch()
    x = x.float()
    exact = fastat.fgsm(model, x, y, 0.1)
    with torch.autocast("cpu", dtype=torch.float16):
        leaf = x.clone().requires_grad_()
        plain = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        found = fastat.fgsm(model, x, y, 0.1)
        own = fastat.fgsm(model, x, y, 0.1, loss=lambda z, y: F.cross_entropy(z, y, reduction="none"))
    assert float((plain == 0).float().mean()) > 0.9
    for x_adv in (found, own, fastat.fgsm(Inside(model), x, y, 0.1)):
        assert float((x_adv - exact).abs().le(1e-6).float().mean()) > 0.9


def test_gradients_in_float16_do_not_overflow():
    torch.manual_seed(0)
    model, (x, y, _) = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), batch()
    with torch.no_grad():
        model[1].weight *= 600  # the gradient is some hundred: scaled it would leave float16
    x = x.float()
    with torch.autocast("cpu", dtype=torch.float16):
        found = fastat.fgsm(model, x, y, 0.1, norm="l2")
    moved = (found - x).flatten(1).norm(dim=1)
    wrong = (model(x).argmax(1) != y).nonzero().flatten()  # whose gradient is large
    assert len(wrong) > 2 and float(moved[wrong].min()) > 0.01


def test_second_derivatives_and_awp_in_float16():
    model, (x, y, ids) = vanishing(), batch()
    x = x.float()
    aligned = fastat.gradient_misalignment(model, x, y, 0.1, seed=0, sample_ids=ids).item()
    with torch.autocast("cpu", dtype=torch.float16):
        half = fastat.gradient_misalignment(model, x, y, 0.1, seed=0, sample_ids=ids)
    assert half.item() == pytest.approx(aligned, abs=0.02) and half.requires_grad
    moves = []
    for dtype in (torch.float32, torch.float16):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.float16):
            before = model[1].weight.detach().clone()
            with perturbed_weights(model, lambda: F.cross_entropy(model(x), y), 0.1):
                moves.append((model[1].weight.detach() - before).flatten())
    assert F.cosine_similarity(*moves, dim=0).item() > 0.95


def test_awp_is_part_of_the_step():
    protocol, (x, y, ids) = fastat.protocol("trades", eps=0.1, steps=2, awp=0.05), batch()
    with pytest.raises(ValueError, match=r"AWP is part of the optimizer's step: use `with protocol.stepping"):
        protocol(network(), x, y)
    one, other = network(), network()
    plain = fastat.protocol("trades", eps=0.1, steps=2)
    for step in range(2):
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1) for model in (one, other)]
        with protocol.stepping(one, x, y, seed=step, sample_ids=ids) as found:
            optimizers[0].zero_grad()
            found.loss.backward()
            optimizers[0].step()
        x_adv = plain.attack(other, x, y, seed=step, sample_ids=ids)

        def loss(x_adv=x_adv):
            return fastat.trades_loss(other(x), other(x_adv), y)

        with perturbed_weights(other, loss, 0.05):
            optimizers[1].zero_grad()
            loss().backward()
            optimizers[1].step()
        same(list(one.parameters()), list(other.parameters()))
    with (
        pytest.raises(TypeError, match="AWP moves the weights of a module, got <function"),
        protocol.stepping(lambda x: one(x), x, y),
    ):
        pass


def test_free_is_its_algorithm():
    protocol, (x, y, _) = fastat.protocol("free", eps=0.1, step_size=0.03, replays=3), batch()
    with pytest.raises(ValueError, match="attack 'free' is part of the optimizer's step"):
        protocol(network(), x, y)
    for delta, error, message in (
        (None, ValueError, r"delta must be like x, \[12, 1, 4, 4\] of torch.float64 on cpu, torch.zeros_like"),
        (
            torch.zeros_like(x).float(),
            ValueError,
            "of torch.float64 on cpu, .*, got .12, 1, 4, 4. of torch.float32 on cpu",
        ),
        (torch.zeros_like(x), RuntimeError, r"call outcome\.loss\.backward"),
    ):
        with pytest.raises(error, match=message), protocol.stepping(network(), x, y, delta=delta):
            pass
    one, other = network(), network()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, other)]
    delta, expected = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(protocol.attack.replays):
        with protocol.stepping(one, x, y, delta=delta) as found:
            optimizers[0].zero_grad()
            found.loss.backward()
            optimizers[0].step()
        leaf = (x + expected).clamp(0, 1).requires_grad_()
        optimizers[1].zero_grad()
        F.cross_entropy(other(leaf), y).backward()
        optimizers[1].step()
        expected = (expected + 0.03 * leaf.grad.sign()).clamp(-0.1, 0.1)
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-12)
    same(list(one.parameters()), list(other.parameters()))


def test_free_looks_at_its_inputs():
    model, (x, y, _) = network(), batch()
    free = fastat.protocol("free", eps=0.1)
    for bad, labels, message in ((255 * x, y, "8-bit images must be divided"), (x, y - 3, "y must be >= 0")):
        with pytest.raises(ValueError, match=message), free.stepping(model, bad, labels, delta=torch.zeros_like(x)):
            pass


def test_awp_says_what_it_needs():
    protocol, (x, y, _) = fastat.protocol("pgd-at", eps=0.1, steps=1, awp=0.01), batch()
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="it cannot be within no_grad"),
        protocol.stepping(network(), x, y),
    ):
        pass
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="of which the model has none to train"), protocol.stepping(frozen, x, y):
        pass
    one = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    message = "was not differentiated within the block"
    with pytest.raises(RuntimeError, match=message), protocol.stepping(one, x, y):
        pass


@pytest.mark.parametrize("name", ["awp", "free"])
def test_a_pass_after_the_block_sees_the_weights_as_they_are(name):
    x, y, _ = batch()
    x, model = x.float(), network().float()
    options = {"steps": 1, "awp": 0.5} if name == "awp" else {}
    protocol = fastat.protocol("pgd-at" if name == "awp" else "free", eps=0.1, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with protocol.stepping(model, x, y, delta=torch.zeros_like(x) if name == "free" else None) as found:
            found.loss.backward()
            optimizer.step()
        after = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(after, model(x))


def test_losses_and_objectives_of_ones_own_are_looked_at():
    model, (x, y, _) = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double(), batch()

    def square(output, y):
        return (output - y).square()

    with pytest.raises(ValueError, match=r"a loss for each sample \[12\], got \[12, 12\]"):
        fastat.Protocol(lambda model, x, y: x, square)(model, x, y)
    with pytest.raises(ValueError, match=r"got \[\]: a mean or a sum has to be left out, as reduction='none' does"):
        fastat.Protocol(lambda model, x, y: x, nn.CrossEntropyLoss())(network(), x, y)
    with pytest.raises(ValueError, match=r"objective\(losses\) must return one number, 0-d, got \[12\]"):
        fastat.Protocol(lambda model, x, y: x, objective=lambda losses: losses)(network(), x, y)


def test_attacks_of_ones_own_are_kept_in_order():
    model, (x, y, ids) = network(), batch()

    def careless(model, x, y):
        model.eval()
        return x + 0.1 * model(x).sum()

    found = fastat.Protocol(careless).outcome(model, x, y)
    assert model.training and not found.x_adv.requires_grad
    for wrong in (lambda model, x, y: (x,), lambda model, x, y: x[:3]):
        with pytest.raises(
            ValueError, match=r"attack\(model, x, y\) must return a tensor like x, \[12, 1, 4, 4\], got"
        ):
            fastat.Protocol(wrong)(model, x, y)
    keyed = fastat.Protocol(partial(fastat.pgd, eps=0.1, steps=2))
    one, other = (keyed.outcome(model, x, y, seed=seed, sample_ids=ids).x_adv for seed in (1, 2))
    assert torch.equal(one, fastat.pgd(model, x, y, 0.1, steps=2, seed=1, sample_ids=ids)) and not torch.equal(
        one, other
    )


def test_batches_that_are_none():
    model, (x, y, _) = network(), batch()
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor \[B, ...\], got dict"):
        PROTOCOLS["trades"](model, {"x": x}, y)
    with pytest.raises(TypeError, match=r"group must be a process group of torch\.distributed, got 'world'"):
        PROTOCOLS["hr"](model, x, y, group="world")
    for labels in (y.int(), y.short(), y.to(torch.uint8)):
        assert torch.equal(PROTOCOLS["pgd-at"](model, x, labels, seed=0), PROTOCOLS["pgd-at"](model, x, y, seed=0))


def test_gradalign_works_where_gradients_are_off_and_on_compiled_modules():
    model, (x, y, ids) = network(), batch()
    expected = PROTOCOLS["gradalign"](model, x, y, seed=0, sample_ids=ids).detach()
    with torch.no_grad():
        assert torch.equal(PROTOCOLS["gradalign"](model, x, y, seed=0, sample_ids=ids), expected)
    inside = nn.Sequential(nn.Identity(), torch.compile(model, backend="aot_eager"))
    torch.testing.assert_close(PROTOCOLS["gradalign"](inside, x, y, seed=0, sample_ids=ids).detach(), expected)


def test_bad_batches():
    model, (x, y, _) = network(), batch()
    protocol = PROTOCOLS["pgd-at"]
    with pytest.raises(ValueError, match="x must hold a sample"):
        protocol(model, x[:0], y[:0])
    with pytest.raises(ValueError, match="8-bit images must be divided by 255"):
        protocol(model, 255 * x, y)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 3"):
        protocol(model, x, y + 1)
    message = "delta is carried by attack 'free' alone"
    with pytest.raises(ValueError, match=message), protocol.stepping(model, x, y, delta=x):
        pass


def as_mapping(model):
    return lambda x: {"logits": model(x), "loss": None}


def as_object(model):
    return lambda x: SimpleNamespace(logits=model(x))


def scripted(model):
    return torch.jit.trace(model, batch()[0], check_trace=False)


def exported(model):
    shape = {0: torch.export.Dim("batch", min=2)}
    return torch.export.export(model, (batch()[0],), dynamic_shapes=(shape,)).module()


def compiled(model):
    return torch.compile(model, backend="eager")


def in_a_module(model):
    return nn.Sequential(nn.Identity(), exported(model))


KINDS = [as_mapping, as_object, scripted, exported, compiled, in_a_module]
CASES = [(kind, name) for kind in KINDS for name in ("trades", "mart", "gradalign")] + [(compiled, "bat")]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.filterwarnings("ignore:.torch.jit.*")
def test_models_of_every_kind(kind, name):
    (x, y, ids), plain, model = batch(), network(), network()
    PROTOCOLS[name](plain, x, y, seed=3, sample_ids=ids).backward()
    made = kind(model)
    PROTOCOLS[name](made, x, y, seed=3, sample_ids=ids).backward()
    of_exported = kind in (exported, in_a_module)  # which has parameters of its own
    same(gradients(made if of_exported else model), gradients(plain), atol=1e-10)


def test_the_features_of_bat_can_be_named():
    (x, y, ids), one, other = batch(), network(), network()
    named = fastat.protocol("bat", eps=0.1, steps=2, features="5")
    PROTOCOLS["bat"](one, x, y, seed=3, sample_ids=ids).backward()
    named(other, x, y, seed=3, sample_ids=ids).backward()
    same(gradients(one), gradients(other))
    elsewhere = fastat.protocol("bat", eps=0.1, steps=2, features="3")(network(), x, y, seed=3, sample_ids=ids)
    assert elsewhere != named(network(), x, y, seed=3, sample_ids=ids)
    with pytest.raises(ValueError, match="cannot tell which linear layer makes the logits"):
        PROTOCOLS["bat"](exported(network()), x, y)


def test_a_tuple_is_not_guessed_at():
    model, (x, y, _) = network(), batch()
    with pytest.raises(TypeError, match=r"an object with `logits`, got a tuple of 2: pass a function or a module that"):
        PROTOCOLS["trades"](lambda x: (model(x), x), x, y)


def test_networks_of_torchvision_and_timm():
    import torchvision

    timm = pytest.importorskip("timm")
    x, y = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2])
    networks = [
        torchvision.models.googlenet(num_classes=3, init_weights=False),  # returns more than logits in training
        timm.create_model("resnet10t", num_classes=3),
        timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, patch_size=8),
    ]
    for model in networks:
        loss = PROTOCOLS["trades"](model.train(), x, y)
        loss.backward()
        assert loss.isfinite() and model.training
        assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0


def test_a_network_of_transformers():
    transformers = pytest.importorskip("transformers")
    settings = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=1, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(settings).train()
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    for name in ("trades", "bat", "hr"):
        model.zero_grad()
        found = PROTOCOLS[name].outcome(model, x, y)
        found.loss.backward()
        assert found.logits.shape == (4, 3) and float(model.classifier.weight.grad.abs().sum()) > 0
    accuracy = fastat.evaluation.evaluate(model, x, y, 0.1, attacks=("pgd-2",)).accuracy
    assert set(accuracy) == {"clean", "pgd-2"}
