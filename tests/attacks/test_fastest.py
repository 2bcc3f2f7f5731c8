import pytest
import torch
from torch import nn

import fastat
from fastat.attacks import speed
from fastat.attacks.speed import ChannelsLast
from fastat.models import small_cnn


def test_every_way_is_measured_and_the_one_chosen_is_the_network():
    torch.manual_seed(0)
    model = small_cnn(10, 3, 4).eval()
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5)
    found = fastat.fastest(model, x, compile=False)
    assert set(found.seconds) == {"as it is", "channels last"} and not found.failed
    assert found.name in found.seconds
    for way in (found.model, ChannelsLast(model)):
        torch.testing.assert_close(way(x), model(x), rtol=1e-4, atol=1e-5)
        x_adv = fastat.pgd(way, x, y, 0.1, steps=2, seed=0)
        assert float((x_adv - x).abs().max()) <= 0.1 + 1e-6
    with torch.no_grad():
        model[-1].bias.add_(1)
    torch.testing.assert_close(found.model(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, "channels last"), (0.97, "as it is"), (2.0, "as it is")])
def test_another_way_is_taken_if_it_is_clearly_faster(monkeypatch, ratio, chosen):
    monkeypatch.setattr(speed, "_time", lambda model, x: ratio if isinstance(model, ChannelsLast) else 1.0)
    model = nn.Flatten()
    found = fastat.fastest(model, torch.rand(2, 3, 4, 4), compile=False)
    assert found.name == chosen and found.seconds == {"as it is": 1.0, "channels last": ratio}
    assert (found.model is model) == (chosen == "as it is")


def test_compiled_ways_and_ways_that_fail(monkeypatch):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", lambda model: Broken())
    found = fastat.fastest(nn.Flatten(), torch.rand(2, 3, 4, 4))
    assert found.failed == {"compiled": "no compiler", "compiled, channels last": "no compiler"}
    monkeypatch.setattr(torch, "compile", lambda model: nn.Sequential(model))
    found = fastat.fastest(nn.Linear(4, 3), torch.rand(2, 4))
    assert set(found.seconds) == {"as it is", "compiled"}


def test_the_network_is_left_as_found():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5)).train()
    model[2].weight.requires_grad_(False)
    threads = torch.get_num_threads()
    with torch.no_grad():
        fastat.fastest(model, torch.rand(4, 3, 4, 4), compile=False)
    assert model[0].num_batches_tracked == 0 and model.training and torch.get_num_threads() == threads
    assert model[0].weight.requires_grad and not model[2].weight.requires_grad and model[0].weight.grad is None


def test_an_error_or_dropout_leaves_no_trace():
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten()).train()
    before = torch.get_rng_state()
    found = fastat.fastest(model, torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), compile=False)
    assert isinstance(found, fastat.Fastest)
    with pytest.raises(RuntimeError, match="broken"):
        fastat.fastest(model.append(Breaks()), torch.zeros(4, 3, 4, 4), compile=False)
    assert model[0].num_batches_tracked == 0 and model[0].running_mean.eq(0).all()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_stay_as_they_lie_and_are_the_networks(layout):
    model = small_cnn(10, 3, 4).to(memory_format=layout)
    places = [(p.data_ptr(), p.stride()) for p in model.parameters()]
    found = fastat.fastest(model, torch.rand(5, 3, 8, 8), compile=False)
    assert [(p.data_ptr(), p.stride()) for p in found.model.parameters()] == places
    for one, other in zip(ChannelsLast(model).parameters(), model.parameters(), strict=True):
        assert one is other


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got function"):
        fastat.fastest(lambda x: x, torch.rand(2, 3))
    with pytest.raises(TypeError, match="8-bit"):
        fastat.fastest(nn.Flatten(), torch.zeros(2, 3, dtype=torch.uint8))
