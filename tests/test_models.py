"""The networks: sizes of the literature, normalization inside, one initialization per seed."""

import pytest
import torch

from fastat import models
from fastat.models import Normalized


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    # Wong et al. 2020 (PreAct ResNet-18), Zagoruyko and Komodakis 2016 (WRN-28-10), Madry et al. 2018 (WRN-34-10)
    [("preact_resnet18", 11.17), ("wide_resnet_28_10", 36.48), ("wide_resnet_34_10", 46.16)],
)
def test_parameter_counts_of_the_literature(name, millions):
    with torch.device("meta"):
        network = models._NETWORKS[name](10, 3)
    assert round(parameters(network) / 1e6, 2) == millions


def test_wide_resnet_counts_its_layers():
    network = models.wide_resnet.wide_resnet(28, 1, 10, 3)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) + 1 + 2 == 28  # linear, two 1x1 shortcuts
    with pytest.raises(ValueError, match="got 27"):
        models.wide_resnet.wide_resnet(27, 1, 10, 3)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_small_cnn_takes_any_size(channels, size):
    model = models.build("small_cnn", 7, channels, 0.5, 0.25)
    assert model(torch.rand(3, channels, size, size)).shape == (3, 7)
    assert parameters(model) < 400_000


def test_width_of_the_small_cnn():
    assert parameters(models.build("small_cnn", 10, 1, width=8)) < parameters(models.build("small_cnn", 10, 1)) / 10
    assert models.build("small_cnn", 10, 1, width=8).model[-1].in_features == 128
    for name, width in (("preact_resnet18", 64), ("small_cnn", 0)):
        with pytest.raises(ValueError, match=f"width is free for small_cnn only, .* got {width} for {name}"):
            models.build(name, 10, 1, width=width)


def test_preact_resnet_shapes_and_gradient():
    model = models.build("preact_resnet18", 10, 3, [0.5] * 3, [0.2] * 3)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    features = model.model[:5](torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 512, 4, 4)


def test_preact_block_is_its_formula():
    block = models.preact.PreActBlock(4, 8, 2).eval()
    block.bn1.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 4, 6, 6)
    activated = block.bn1(x).relu()
    expected = block.shortcut(activated) + block.conv2(block.bn2(block.conv1(activated)).relu())
    torch.testing.assert_close(block(x), expected)
    same = models.preact.PreActBlock(4, 4, 1).eval()
    assert same.shortcut is None
    torch.nn.init.zeros_(same.conv2.weight)
    torch.testing.assert_close(same(x), x)


def test_build_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="unknown model 'resnet'; known are small_cnn"):
        models.build("resnet", 10, 3)
    with pytest.raises(ValueError, match="mean has 3 entries for 1 channels"):
        models.build("small_cnn", 10, 1, [0.1, 0.2, 0.3], 1.0)
    with pytest.raises(ValueError, match="num_classes >= 2"):
        models.build("small_cnn", 1, 1)
    assert set(models.names()) == {"small_cnn", "preact_resnet18", "wide_resnet_28_10", "wide_resnet_34_10"}


class TestNormalized:
    def test_is_the_affine_map(self):
        x = torch.rand(2, 3, 4, 4)
        mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
        expected = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        assert Normalized(torch.nn.Identity(), mean, std)(x).equal(expected)
        assert Normalized(torch.nn.Identity(), 0.25, 0.5)(x).equal((x - 0.25) / 0.5)
        assert Normalized(torch.nn.Identity(), tuple(mean), 0.5)(x).shape == x.shape

    def test_follows_the_dtype_of_the_input_and_the_layout(self):
        model = Normalized(torch.nn.Identity(), 0.5, 0.5)
        assert model(torch.rand(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64
        assert model(torch.rand(1, 3, 2, 2).half()).dtype == torch.float16
        x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
        assert model(x).is_contiguous(memory_format=torch.channels_last)

    def test_buffers_travel_with_the_model(self):
        model = Normalized(torch.nn.Identity(), [0.1], [0.2])
        other = Normalized(torch.nn.Identity(), [0.0], [1.0])
        other.load_state_dict(model.state_dict())
        assert other.mean.equal(model.mean)
        assert other.std.equal(model.std)
        assert list(model.parameters()) == []

    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            (0.5, 0.0, "std must be above zero"),
            (0.5, [0.1, -0.1], "std must be above zero"),
            ([0.1, 0.2], [1.0, 1.0, 1.0], "mean has 2 entries, std has 3"),
            ([], 1.0, "mean must be"),
            (float("nan"), 1.0, "mean must be"),
            (0.0, [[1.0]], "std must be"),
        ],
    )
    def test_rejects(self, mean, std, message):
        with pytest.raises(ValueError, match=message):
            Normalized(torch.nn.Identity(), mean, std)

    def test_rejects_a_wrong_channel_count_of_the_input(self):
        with pytest.raises(ValueError, match=r"3 channels, got an input of shape \(2, 1, 4, 4\)"):
            Normalized(torch.nn.Identity(), [0.1, 0.2, 0.3], 1.0)(torch.rand(2, 1, 4, 4))
