"""What a new preference loss is made of: a function."""

from __future__ import annotations

import functools

import pytest
import torch

from rewardzoo.rlhf import losses
from rewardzoo.rlhf.offline import OfflineTrainer

from .small import model, pairs, same


def test_a_loss_is_a_name_or_a_function():
    def my_dpo(s, beta):
        return -torch.nn.functional.logsigmoid(beta * s.delta)

    trained = []
    for loss in ("dpo", my_dpo):
        policy = model()
        OfflineTrainer(policy, policy, pairs(), loss, batch_size=16, beta=0.3).train(4)
        trained.append(policy)
    assert same(*trained) and not same(trained[0], model())
    with pytest.raises(ValueError, match="loss='other': expected one of dpo"):
        OfflineTrainer(model(), model(), pairs(), "other")


def test_losses_of_a_partial_function_keep_their_own_settings():
    policy, other = model(), model()
    fixed = functools.partial(losses.dpo, beta=0.3)
    OfflineTrainer(policy, policy, pairs(), fixed, batch_size=16).train(2)
    OfflineTrainer(other, other, pairs(), "dpo", batch_size=16, beta=0.3).train(2)
    assert same(policy, other)
