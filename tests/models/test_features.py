"""Penultimate features: the right tensor, with its gradient, in one pass, and nothing left on the model."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fastat import models
from fastat.models.features import with_features


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


X = torch.rand(5, 3, 2, 2)


@pytest.mark.parametrize(
    ("name", "width", "channels"), [("small_cnn", 16 * 32, 1), ("preact_resnet18", 512, 3), ("small_cnn", 16 * 32, 3)]
)
def test_networks_of_the_library_by_default(name, width, channels):
    model = models.build(name, 10, channels, 0.5, 0.25).eval()
    x = torch.rand(3, channels, 8, 8)
    with torch.no_grad():
        logits, features = with_features(model)(x)
        assert logits.equal(model(x))
        assert features.shape == (3, width)
        *_, classifier = model.modules()
        torch.testing.assert_close(classifier(features), logits)
    assert hooks(model) == 0


def test_default_is_the_input_of_the_layer_that_makes_the_logits():
    class Projected(nn.Module):
        """A contrastive projection head, called last, declared last, beside the classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.classifier, self.head = nn.Linear(12, 7), nn.Linear(7, 4), nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            features = self.body(x.flatten(1)).relu()
            logits = self.classifier(features)
            self.projection = self.head(features * 2)
            return logits

    model = Projected()
    logits, features = with_features(model)(X)
    assert features.equal(model.body(X.flatten(1)).relu())
    assert logits.equal(model(X))


def test_a_scaled_classifier_still_has_its_features():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.inner(x) / 3, dim=1)

    model = Scaled()
    assert with_features(model)(X)[1].equal(model.inner[:3](X))


def test_a_named_module_gives_its_output_flattened():
    model = models.build("small_cnn", 10, 1)
    model.eval()
    x = torch.rand(2, 1, 8, 8)
    logits, features = with_features(model, "model.3")(x)
    assert features.shape == (2, 128 * 4)
    assert features.equal(model.model[:4](x).flatten(1))
    assert logits.equal(model(x))


def test_a_model_or_a_function_that_returns_both():
    body, head = nn.Linear(12, 7), nn.Linear(7, 4)

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        features = body(x.flatten(1))
        return head(features), features

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return model(x)

    logits, features = model(X)
    for found in (
        with_features(model)(X),
        with_features(Both())(X),
        with_features(head, lambda m, x: (m(body(x.flatten(1))), body(x.flatten(1))))(X),
    ):
        assert found[0].equal(logits)
        assert found[1].equal(features)


def test_gradients_flow_and_come_from_one_pass():
    model = network()
    passes = []
    model[1].register_forward_hook(lambda *_: passes.append(1))
    logits, features = with_features(model)(X)
    assert len(passes) == 1
    (logits.sum() + features.square().sum()).backward()
    found = model[1].weight.grad.clone()
    model.zero_grad()
    hidden = model[:3](X)
    (model[3](hidden).sum() + hidden.square().sum()).backward()
    torch.testing.assert_close(found, model[1].weight.grad)


def test_hooks_are_removed_after_an_error_too():
    model = network()
    with pytest.raises(RuntimeError):
        with_features(model)(torch.rand(2, 5))
    with pytest.raises(RuntimeError):
        with_features(model, "2")(torch.rand(2, 5))
    assert hooks(model) == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    with mode():
        assert with_features(network())(X)[1].shape == (5, 7)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_also_once_they_have_run():
    inner = network()
    compiled = torch.compile(inner, backend="eager")
    compiled(X)
    assert with_features(compiled)(X)[1].equal(inner[:3](X))
    assert with_features(compiled, "2")(X)[1].equal(inner[:3](X))
    inner.compile(backend="eager")
    inner(X)
    assert with_features(inner)(X)[1].equal(inner[2](inner[1](X.flatten(1))))


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"find_unused_parameters": True}])
def test_distributed_models_synchronize(process_group, options):
    inner = network()
    model = nn.parallel.DistributedDataParallel(inner, **options)
    synchronized = []
    model.register_comm_hook(None, lambda state, bucket: synchronized.append(1) or _same(bucket))
    logits, features = with_features(model)(X)
    assert features.equal(inner[:3](X))
    (logits.sum() + features.sum()).backward()
    assert synchronized
    assert with_features(torch.compile(model, backend="eager"), "2")(X)[1].equal(features)


def _same(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


class TestErrors:
    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"features 'fc' is no module of the model; it has 0, 1, 2, 3$"):
            with_features(network(), "fc")
        with pytest.raises(ValueError, match="it has no modules"):
            with_features(lambda x: x, "fc")

    def test_a_module_that_is_not_called(self):
        model = network()
        model.add_module("spare", nn.Linear(2, 2))
        model.forward = lambda x: model[3](model[1](x.flatten(1)))
        with pytest.raises(ValueError, match="features 'spare': the model did not call that module; others are 0, 1"):
            with_features(model, "spare")(X)

    def test_a_module_that_gives_no_tensor(self):
        model = nn.Sequential(nn.Flatten(), nn.LSTM(12, 4))
        model.forward = lambda x: model[1](model[0](x))[0]
        with pytest.raises(ValueError, match="'1': the output of that module is a tuple, not a tensor"):
            with_features(model, "1")(X)

    def test_no_linear_layer(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten())
        with pytest.raises(
            ValueError, match=r"makes the logits \[5, 4\] \(linear layers called: none\): .* one of 0, 1"
        ):
            with_features(model)(X)

    def test_two_candidates(self):
        model = nn.ModuleList([nn.Linear(12, 4), nn.Linear(12, 4)])
        model.forward = lambda x: model[0](x.flatten(1)) + model[1](x.flatten(1))
        with pytest.raises(ValueError, match=r"linear layers called: 0 \[5, 4\], 1 \[5, 4\]\): name the module"):
            with_features(model)(X)

    def test_features_overwritten_in_place(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(inplace=True), nn.Linear(7, 4))
        with pytest.raises(ValueError, match="the output of '1' is overwritten by a later layer"):
            with_features(model, "1")(X)
        assert with_features(model, "2")(X)[1].min() >= 0

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ((torch.zeros(5, 4),), r"must return logits, or \(logits, features\), got 1 values"),
            ({"out": torch.zeros(5, 4)}, r"an object with `logits`, got a dict: pass a function"),
            ((torch.zeros(5, 4), torch.zeros(4, 7)), r"features must be \[5, \.\.\.\], got \[4, 7\]"),
            ((torch.zeros(5, 4), torch.zeros(5)), r"features must be \[5, \.\.\.\], got \[5\]"),
            ((torch.zeros(5, 4, 1), torch.zeros(5, 7)), r"logits must be \[5, C\], got \[5, 4, 1\]"),
            ((torch.zeros(5, 4), None), r"features must be \[5, \.\.\.\], got a NoneType"),
        ],
    )
    def test_outputs_that_do_not_fit(self, output, message):
        with pytest.raises((TypeError, ValueError), match=message):
            with_features(lambda x: output)(X)


class OwnHead(torch.nn.Module):
    """A hidden layer as wide as the logits, and a head that is no nn.Linear."""

    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(4, 3)
        self.head = torch.nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return self.hidden(x).relu() @ self.head


def test_a_hidden_layer_as_wide_as_the_logits_is_not_taken_for_their_maker():
    with pytest.raises(ValueError, match=r"cannot tell which linear layer makes the logits \[5, 3\]"):
        with_features(OwnHead())(torch.randn(5, 4))
    _, features = with_features(OwnHead(), "hidden")(torch.randn(5, 4))
    assert features.shape == (5, 3) and features.requires_grad
