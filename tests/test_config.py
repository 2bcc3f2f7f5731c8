"""What a run is: defaults per dataset, ranges, and what tells two runs apart."""

import json
from dataclasses import replace

import pytest

from fastat.config import TrainConfig, check_config, default_config, differing_fields


@pytest.mark.parametrize(
    ("data_name", "eps"), [("digits", 0.1), ("mnist", 0.3), ("cifar10", 8 / 255), ("folder:x", 8 / 255)]
)
def test_default_configs(data_name, eps):
    config = default_config(data_name)
    check_config(config)
    assert (config.data, config.eps) == (data_name, eps)
    assert default_config(data_name, epochs=7).epochs == 7
    with pytest.raises(TypeError, match="epoch"):
        default_config(data_name, epoch=7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "imagenet"), ("model", "vgg"), ("norm", "l0"), ("eps", -0.1), ("eps", float("inf")), ("lr", 0.0),
        ("epochs", 0), ("batch_size", 1), ("step_size", 0.0), ("attack_steps", 0), ("precision", "fp16"),
        ("augment", "cutout"), ("schedule", "step"), ("attack_mode", "both"), ("train_size", 1), ("eval_size", 0),
        ("protocol", "hrr"), ("attack", "cw"), ("objective", "hinge"), ("alpha", 1.0), ("r", -0.1), ("order", "dh"),
        ("gamma", float("nan")), ("beta", -1.0), ("tau", 0.0), ("positives", "both"), ("label_noise", 1.0),
        ("width", 0),
    ],
)  # fmt: skip
def test_check_config_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {value!r}$"):
        check_config(replace(TrainConfig(), **{field: value}))


def test_width_belongs_to_the_small_cnn():
    with pytest.raises(ValueError, match="width must be left out for preact_resnet18, got 16"):
        check_config(TrainConfig(model="preact_resnet18", width=16))


def test_differing_fields():
    saved = {**json.loads(json.dumps(TrainConfig().__dict__)), "eps": 0.2}
    assert differing_fields(saved, TrainConfig()) == ["eps: 0.2 -> 0.1"]
