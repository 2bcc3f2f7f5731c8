"""The settings that are worth starting from."""

from __future__ import annotations

from typing import Any

from fastat.protocols import PROTOCOLS, ProtocolName, check_protocol_name
from fastat.training.config import TrainConfig, with_fields


def default_config(data: str, protocol: ProtocolName = "pgd-at", **changes: Any) -> TrainConfig:
    """The settings that are worth starting from for a dataset and a protocol, with some of them changed.

    digits: about a minute on two CPU cores. mnist: eps 0.3, the threat model of Madry et al. (2018). cifar10: eps
    8/255, PreAct ResNet-18, 30 epochs of the cyclic schedule (Wong et al. 2020); the other colour images start from the
    same, svhn with the lower learning rate of de Jorge et al. (2022), imagenet with ResNet-50 and eps 4/255. With adam
    and adamw the learning rate is torch's own, 0.001.

    Raises:
        TypeError: a change that is no field of a configuration.
        ValueError: an unknown protocol.
    """
    check_protocol_name(protocol)
    by_data = _DEFAULTS.get(data.split(":", 1)[0], {})
    by_optimizer = {"lr": ADAM_LR} if changes.get("optimizer", "sgd") != "sgd" else {}
    fields = {"data": data, "protocol": protocol, **by_data, **PROTOCOLS[protocol], **by_optimizer, **changes}
    return with_fields(TrainConfig(), **fields)


ADAM_LR = 1e-3
_CIFAR: dict[str, Any] = {
    "model": "preact_resnet18",
    "eps": 8 / 255,
    "epochs": 30,
    "lr": 0.2,
    "augment": "crop-flip",
    "val_size": 1000,
}
_MNIST: dict[str, Any] = {"eps": 0.3, "epochs": 5, "val_size": 1000}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": _MNIST,
    "fashion-mnist": {**_MNIST, "eps": 0.1},
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": {**_CIFAR, "lr": 0.05, "augment": "none"},
    "tiny-imagenet": _CIFAR,
    "imagenet": {**_CIFAR, "model": "torchvision:resnet50", "eps": 4 / 255, "batch_size": 256},
    "folder": {**_CIFAR, "val_size": 100},
    "tensors": {**_CIFAR, "val_size": 100, "augment": "none"},
}
