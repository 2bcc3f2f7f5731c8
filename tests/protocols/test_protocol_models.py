"""Protocols on models of every kind."""

from types import SimpleNamespace

import pytest
import torch
from protocol_cases import PROTOCOLS, batch, gradients, network, same
from torch import nn

import fastat


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
