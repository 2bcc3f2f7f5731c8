"""Protocols in loops of one's own, in one process."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from protocol_cases import OF_A_BATCH, PROTOCOLS, batch, gradients, network, same
from torch import nn

import fastat
from fastat.protocols import perturbed_weights


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
