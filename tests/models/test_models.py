"""The networks: sizes of the literature, normalization inside, one initialization per seed."""

import sys

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
        network = getattr(models, name)(10, 3)
    assert round(parameters(network) / 1e6, 2) == millions


def basic(i: int, c: int, projected: bool) -> int:
    """Parameters of a block of two 3x3 convolutions, i to c channels: batch norms, convolutions, shortcut."""
    return 2 * i + 9 * i * c + 2 * c + 9 * c * c + i * c * projected


def bottleneck(i: int, c: int, projected: bool) -> int:
    """The same of a block of 1x1, 3x3 and 1x1 convolutions with c / 4 channels inside."""
    n = c // 4
    return 2 * i + i * n + 2 * n + 9 * n * n + 2 * n + n * c + i * c * projected


@pytest.mark.parametrize(
    ("name", "block", "stem", "widths", "blocks"),
    [
        ("preact_resnet34", basic, 64, (64, 128, 256, 512), (3, 4, 6, 3)),
        ("preact_resnet50", bottleneck, 64, (256, 512, 1024, 2048), (3, 4, 6, 3)),
        ("wide_resnet_34_20", basic, 16, (320, 640, 1280), (5, 5, 5)),
    ],
)
def test_parameter_counts_by_hand(name, block, stem, widths, blocks):
    expected, before = 27 * stem + 2 * widths[-1] + 10 * widths[-1] + 10, stem
    for stage, (width, number) in enumerate(zip(widths, blocks, strict=True)):
        expected += block(before, width, before != width or stage > 0) + (number - 1) * block(width, width, False)
        before = width
    with torch.device("meta"):
        assert parameters(getattr(models, name)(10, 3)) == expected


class TestMlp:
    def test_has_two_hidden_layers(self):
        model = models.build("mlp", 7, 3, width=5, image_size=(4, 6))
        assert parameters(model) == (72 * 5 + 5) + (5 * 5 + 5) + (5 * 7 + 7)
        assert model(torch.rand(2, 3, 4, 6)).shape == (2, 7)
        assert models.build("mlp", 10, 1, image_size=(28, 28)).model[1].out_features == 256
        assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules())

    def test_must_know_the_size(self):
        with pytest.raises(ValueError, match="mlp needs image_size, got None"):
            models.build("mlp", 10, 1)


class TestZoo:
    @pytest.mark.parametrize(("name", "channels"), [("timm:resnet10t", 1), ("torchvision:mobilenet_v3_small", 3)])
    def test_builds_with_the_normalization_inside(self, name, channels):
        pytest.importorskip("timm")
        model = models.build(name, 7, channels, 0.5, 0.25).eval()
        x = torch.rand(2, channels, 64, 64)
        assert model(x).shape == (2, 7)
        assert model(x).equal(model.model((x - 0.5) / 0.25))
        torch.manual_seed(3)
        one = models.build(name, 7, channels)
        torch.manual_seed(3)
        two = models.build(name, 7, channels)
        assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))

    @pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
    @pytest.mark.filterwarnings("ignore:The default weight initialization")
    def test_auxiliary_heads_are_left_out(self, name, size):
        model = models.build(f"torchvision:{name}", 5, 3).train()
        assert isinstance(model(torch.rand(2, 3, size, size)), torch.Tensor)

    @pytest.mark.parametrize("name", ["timm:resnet81", "torchvision:resnet81"])
    def test_unknown_name_has_close_ones(self, name):
        pytest.importorskip("timm")
        with pytest.raises(ValueError, match=f"model '{name}' is not known; names close to it: resnet18"):
            models.build(name, 10, 3)

    def test_networks_that_do_not_return_logits(self):
        with pytest.raises(ValueError, match="'torchvision:fcn_resnet50' is not known"):
            models.build("torchvision:fcn_resnet50", 10, 3)

    def test_torchvision_takes_three_channels(self):
        with pytest.raises(ValueError, match="takes images of 3 channels, got 1"):
            models.build("torchvision:resnet18", 10, 1)

    def test_without_timm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastat\[models\]'"):
            models.build("timm:resnet18", 10, 3)


def test_titles():
    found = [models.title(name) for name in models.names()]
    assert found[:3] == ["small CNN", "MLP", "PreAct ResNet-18"]
    assert len(set(found)) == len(found)
    assert models.title("timm:resnet18") == "timm resnet18"


@pytest.mark.parametrize("name", ["small_cnn", "mlp", "preact_resnet18", "preact_resnet34", "preact_resnet50"])
def test_one_initialization_per_seed(name):
    def build(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return list(models.build(name, 10, 1, image_size=(8, 8)).parameters())

    assert all(a.equal(b) for a, b in zip(build(1), build(1), strict=True))
    assert not all(a.equal(b) for a, b in zip(build(1), build(2), strict=True))


def test_wide_resnet_counts_its_layers():
    network = models.wide_resnet.WideResNet(28, 1, 10, 3)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) + 1 + 2 == 28  # linear, two 1x1 shortcuts
    with pytest.raises(ValueError, match="got 27"):
        models.wide_resnet.WideResNet(27, 1, 10, 3)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_small_cnn_takes_any_size(channels, size):
    model = models.build("small_cnn", 7, channels, 0.5, 0.25)
    assert model(torch.rand(3, channels, size, size)).shape == (3, 7)
    assert parameters(model) < 400_000


def test_width_of_the_small_cnn():
    assert parameters(models.build("small_cnn", 10, 1, width=8)) < parameters(models.build("small_cnn", 10, 1)) / 10
    assert models.build("small_cnn", 10, 1, width=8).model[-1].in_features == 128
    for name, width in (("preact_resnet18", 64), ("small_cnn", 0)):
        with pytest.raises(ValueError, match=f"width is free for small_cnn, mlp only, .* got {width} for {name}"):
            models.build(name, 10, 1, width=width)


def test_preact_resnet_shapes_and_gradient():
    model = models.build("preact_resnet18", 10, 3, [0.5] * 3, [0.2] * 3)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    network, features = model.model, torch.rand(1, 3, 32, 32)
    for stage in (network.conv1, network.layer1, network.layer2, network.layer3, network.layer4):
        features = stage(features)
    assert features.shape == (1, 512, 4, 4)


def entries(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def of_batch_norm(name: str) -> set[str]:
    return {f"{name}.{entry}" for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def test_preact_resnet_has_the_usual_names():
    """Those of RobustBench's PreActResNet with a batch norm before the linear layer."""
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    expected = {"conv1.weight", "linear.weight", "linear.bias", *of_batch_norm("bn")}
    expected |= {f"{block}.conv{i}.weight" for block in blocks for i in (1, 2)}
    expected |= {f"layer{stage}.0.shortcut.0.weight" for stage in (2, 3, 4)}
    expected |= {name for block in blocks for i in (1, 2) for name in of_batch_norm(f"{block}.bn{i}")}
    assert entries(models.preact_resnet18()).keys() == expected


def test_a_stage_that_trades_saves_and_never_uses_is_left_out():
    saved, loaded = (models.wide_resnet.WideResNet(10, 2, 10, 3) for _ in range(2))
    state = saved.state_dict()
    unused = {name.replace("block1", "sub_block1"): value for name, value in state.items() if "block1" in name}
    loaded.load_state_dict({**state, **unused})
    assert all(value.equal(state[name]) for name, value in loaded.state_dict().items())


def test_weights_of_the_other_preact_resnet_are_refused():
    """That of Wong et al. (2020) has no batch norm before the linear layer, and another shortcut."""
    state = {name: value for name, value in models.preact_resnet18().state_dict().items() if "bn." not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*bn\.weight"):
        models.preact_resnet18().load_state_dict(state)


def test_wide_resnet_has_the_usual_names():
    """Those of RobustBench and of the code of TRADES."""
    blocks = [f"block{stage}.layer.{block}" for stage in range(1, 4) for block in range(4)]
    expected = {"conv1.weight", "fc.weight", "fc.bias", *of_batch_norm("bn1")}
    expected |= {f"{block}.conv{i}.weight" for block in blocks for i in (1, 2)}
    expected |= {f"block{stage}.layer.0.convShortcut.weight" for stage in (2, 3)}
    expected |= {name for block in blocks for i in (1, 2) for name in of_batch_norm(f"{block}.bn{i}")}
    network = models.wide_resnet.WideResNet(28, 1, 10, 3)  # its first stage has as many channels as the stem
    assert entries(network).keys() == expected


OLD = {
    "preact": {"conv1": "0", "layer1": "1", "layer2": "2", "layer3": "3", "layer4": "4", "bn": "5", "linear": "9"},
    "wide": {"conv1": "0", "block1.layer": "1", "block2.layer": "2", "block3.layer": "3", "bn1": "4", "fc": "8"},
}
"""What the first versions called the modules."""


@pytest.mark.parametrize(("kind", "build"), [
    ("preact", models.preact_resnet18), ("preact", models.preact_resnet50),
    ("wide", lambda: models.wide_resnet.WideResNet(10, 2, 10, 3)),
])  # fmt: skip
def test_weights_saved_by_the_first_versions_load(kind, build):
    saved, loaded = Normalized(build(), 0.5, 0.2), Normalized(build(), 0.5, 0.2)
    old = {}
    for name, value in saved.state_dict().items():
        inner = name.removeprefix("model.")
        for new, number in OLD[kind].items():
            if inner.startswith(f"{new}."):
                name = f"model.{number}{inner.removeprefix(new)}"
        old[name.replace("shortcut.0", "shortcut").replace("convShortcut", "shortcut")] = value
    assert "model.2.0.shortcut.weight" in old and not {"model.conv1.weight", "model.fc.weight"} & old.keys()
    before = dict(old)
    loaded.load_state_dict(old)
    assert all(value.equal(saved.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert old.keys() == before.keys()  # what the caller holds stays as it is
    with pytest.raises(RuntimeError, match=r"Missing key.*model\.conv1\.weight"):
        loaded.load_state_dict({name: value for name, value in old.items() if name != "model.0.weight"})


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


def test_preact_bottleneck_is_its_formula():
    block = models.preact.PreActBottleneck(4, 8, 2).eval()
    block.bn1.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 4, 6, 6)
    activated = block.bn1(x).relu()
    inside = block.conv2(block.bn2(block.conv1(activated)).relu())
    expected = block.shortcut(activated) + block.conv3(block.bn3(inside).relu())
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 8, 3, 3)
    same = models.preact.PreActBottleneck(8, 8, 1).eval()
    torch.nn.init.zeros_(same.conv3.weight)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(same(x), x)


def test_build_rejects_what_does_not_fit():
    with pytest.raises(
        ValueError, match=r"model must be one of small_cnn, .*, torchvision:NAME, package.module:function, got 'resnet'"
    ):
        models.build("resnet", 10, 3)
    with pytest.raises(ValueError, match="mean has 3 entries for 1 channels"):
        models.build("small_cnn", 10, 1, [0.1, 0.2, 0.3], 1.0)
    with pytest.raises(ValueError, match="num_classes >= 2"):
        models.build("small_cnn", 1, 1)
    for name in (*models.names(), "timm:resnet18", "torchvision:resnet18"):
        models.check_name(name)


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
