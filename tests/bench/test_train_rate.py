"""The bench of training: how its plain loops are run and counted."""

import pytest
import torch
from torch import nn

from bench.rates import training
from bench.rates.training import PLAIN, plain_rate, plain_rates
from fastat.training import default_config

CPU = torch.device("cpu")


def test_plain_loops_take_turns_and_both_halves_count(tmp_path, monkeypatch):
    order = []

    def rate(config, folder, device, plain, steps):
        order.append(plain)
        return 100.0 if len(order) <= len(PLAIN) else 300.0

    monkeypatch.setattr(training, "plain_rate", rate)
    found = plain_rates(default_config("digits"), tmp_path, CPU, 10)
    assert order == [*PLAIN.values()] * 2
    for one in found.values():  # as many images at 100 a second as at 300
        assert one == {"images_per_second": pytest.approx(150), "of_each_half": [100.0, 300.0], "steps": 10}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_loops_run_as_they_say(tmp_path, monkeypatch, name):
    plain, seen = PLAIN[name], set()

    def conv(self, x, forward=nn.Conv2d.forward):
        made = forward(self, x)
        seen.add((made.dtype, made.is_contiguous(memory_format=torch.channels_last)))
        return made

    monkeypatch.setattr(nn.Conv2d, "forward", conv)
    config = default_config("digits", train_size=64, batch_size=16, attack_steps=1, width=4, val_size=0)
    assert plain_rate(config, tmp_path, CPU, plain, 1) > 0
    assert seen == {(torch.bfloat16 if plain.bf16 else torch.float32, plain.channels_last == "on")}
