"""Trainers that learn from a policy's own samples, by the names that the command line has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .decoder import LanguageModel
from .iterative import SuperHF
from .online import OnlineConfig, OnlineTrainer
from .process_rewards import ImplicitReward, Prime
from .reward_callables import CallableReward
from .sampling import Prompts
from .sequences import Sequences
from .trainer import Trainer

BETA = 0.05  # of prime's implicit reward, as in the paper


def own_samples(
    algorithm: str,
    policy: LanguageModel,
    ref: LanguageModel,
    reward: Callable[[Sequences], Tensor],
    prompts: Prompts,
    batch_size: int,
    given: Mapping[str, Any],
) -> Trainer:
    """A trainer.

    Args:
        algorithm: superhf, or one of ``ALGORITHMS``.
        policy: trained in place.
        ref: reference policy.
        reward: scores (B,) of ``Sequences``; for prime a ``CallableReward`` of 0 and 1.
        prompts: drawn from.
        batch_size: prompts a step.
        given: hyperparameters by name, those of ``SuperHF`` or ``OnlineConfig``; for prime
            ``beta`` too.
    """
    if algorithm == "superhf":
        return SuperHF(policy, ref, reward, prompts, **{"batch_size": batch_size, **given})
    settings = {"prompts": batch_size, **given}
    if algorithm == "prime":
        beta = settings.pop("beta", BETA)
        reward = as_prime(reward, policy, ref, beta, settings["learning_rate"])
    config = OnlineConfig(algorithm=algorithm, **settings)
    return OnlineTrainer(policy, ref, reward, prompts, config)


def as_prime(
    reward: Callable[[Sequences], Tensor],
    policy: LanguageModel,
    ref: LanguageModel,
    beta: float,
    learning_rate: float,
) -> Prime:
    """What prime learns from: a verifier, and a model that learns beside the policy.

    Args:
        reward: pays 1 for what is right and 0 for the rest.
        policy: where the model begins.
        ref: the reference policy.
        beta: scale of the process rewards.
        learning_rate: of the policy; the model's is twice that, as in the paper.

    Raises:
        ValueError: for a reward model, which knows how good a completion is, not whether right.
    """
    if not isinstance(reward, CallableReward):
        raise ValueError(
            "--reward: prime needs a verifier, module:function that pays 1 for what is right and "
            "0 for the rest"
        )

    def right(batch: Sequences) -> Tensor:
        paid = reward(batch)
        for value in paid[(paid != 0) & (paid != 1)].tolist():
            raise ValueError(f"--reward: {reward.name} paid {value:g}; prime expects 1 or 0")
        return paid == 1

    return Prime(right, ImplicitReward(policy, ref, beta), 2 * learning_rate)
