"""What a run is: defaults per dataset, ranges, and what tells two runs apart."""

import dataclasses
import json
import re

import pytest

from fastat.support.files import differences
from fastat.training import (
    TrainConfig,
    as_fields,
    check_config,
    config_from,
    default_config,
    with_fields,
)


@pytest.mark.parametrize(
    ("data_name", "eps"),
    [
        ("digits", 0.1),
        ("mnist", 0.3),
        ("fashion-mnist", 0.1),
        ("cifar10", 8 / 255),
        ("cifar100", 8 / 255),
        ("svhn", 8 / 255),
        ("tiny-imagenet", 8 / 255),
        ("imagenet", 4 / 255),
        ("folder:x", 8 / 255),
        ("tensors:x.npz", 8 / 255),
    ],
)
def test_default_configs(data_name, eps):
    config = default_config(data_name)
    check_config(config)
    assert (config.dataset.data, config.threat.eps) == (data_name, eps)
    assert default_config(data_name, epochs=7).optimizer.epochs == 7
    with pytest.raises(TypeError, match="epoch"):
        default_config(data_name, epoch=7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "cifar11"), ("model", "vgg"), ("norm", "l0"), ("eps", -0.1), ("eps", float("inf")), ("lr", 0.0),
        ("epochs", 0), ("batch_size", 1), ("step_size", 0.0), ("attack_steps", 0), ("precision", "fp16"),
        ("augment", "cutout"), ("cutout", -1), ("clip_grad", -1.0), ("average", "mean"), ("ema_decay", 1.0),
        ("swa_start", 1.0), ("milestones", (0.7, 0.5)), ("milestones", (0.0,)), ("replays", 0), ("val_size", -1),
        ("select", "first"), ("patience", 0), ("on_collapse", "ignore"), ("channels_last", "yes"),
        ("label_smoothing", 1.0),
        ("loss", "hinge"), ("schedule", "step"), ("attack_mode", "both"), ("train_size", 1), ("eval_size", 0),
        ("protocol", "hrr"), ("attack", "cw"), ("objective", "hinge"), ("alpha", 1.0), ("r", -0.1), ("order", "dh"),
        ("gamma", float("nan")), ("beta", -1.0), ("tau", 0.0), ("positives", "both"), ("label_noise", 1.0),
        ("width", 0),
    ],
)  # fmt: skip
def test_check_config_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {re.escape(repr(value))}(; did you mean .*)?$"):
        check_config(with_fields(TrainConfig(), **{field: value}))


def test_width_belongs_to_the_small_cnn():
    with pytest.raises(ValueError, match="width must be left out for preact_resnet18, got 16"):
        check_config(with_fields(TrainConfig(), model="preact_resnet18", width=16))


def test_fields_of_all_parts_have_different_names():
    parts = [getattr(TrainConfig(), field.name) for field in dataclasses.fields(TrainConfig)]
    names = [field.name for part in parts for field in dataclasses.fields(part)]
    assert list(as_fields(TrainConfig())) == names and len(set(names)) == len(names)


def test_differing_fields():
    saved = config_from({**json.loads(json.dumps(as_fields(TrainConfig()))), "eps": 0.2})
    assert differences(as_fields(saved), as_fields(TrainConfig())) == ["eps: 0.2 -> 0.1"]


def test_config_from_a_file():
    config = with_fields(TrainConfig(), milestones=(0.1, 0.9), step_size=None, nesterov=True)
    assert config_from(json.loads(json.dumps(as_fields(config)))) == config
    assert config_from({}) == TrainConfig()
    with pytest.raises(ValueError, match="not fields of a configuration: epoch, lrr"):
        config_from({"lrr": 1, "epoch": 2, "lr": 0.1})


def test_fields_that_exclude_each_other():
    with pytest.raises(ValueError, match="patience must be left out where val_size is 0, got 3"):
        check_config(with_fields(TrainConfig(), patience=3, val_size=0))
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 for the loss of mart, got 0\.1"):
        check_config(default_config("digits", "mart", label_smoothing=0.1))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("epochs", 1.5, "of type int"), ("eps", "0.1", "of type float"), ("milestones", (0.5, "x"), "of type tuple"),
        ("nesterov", 1, "of type bool"), ("train_size", 2.5, "of type int | None"), ("data", 3, "of type str"),
        ("lr", True, "of type float"), ("step_size", float("inf"), "finite and above 0"),
    ],
)  # fmt: skip
def test_values_of_another_type(field, value, rule):
    with pytest.raises(ValueError, match=rf"^{field} must be {re.escape(rule)}.*, got {re.escape(repr(value))}$"):
        check_config(with_fields(TrainConfig(), **{field: value}))


@pytest.mark.parametrize("saved", [[1], {"milestones": 0.5}, {"eps": "0.1"}])
def test_files_that_hold_no_configuration(saved):
    with pytest.raises(ValueError, match="must be"):
        config_from(saved)


@pytest.mark.parametrize(
    ("protocol", "changes", "field"),
    [
        ("pgd-at", {"objective": "holistic"}, "objective"), ("standard", {"loss": "trades"}, "loss"),
        ("gradalign", {"grad_align": 0.0}, "grad_align"), ("pgd-at", {"attack": "fgsm"}, "attack"),
        ("trades", {"objective": "benign"}, "objective"), ("hr", {"objective": "mean"}, "objective"),
    ],
)  # fmt: skip
def test_a_name_does_not_lie(protocol, changes, field):
    with pytest.raises(ValueError, match=f"^{field} must be "):
        check_config(default_config("digits", protocol, **changes))
