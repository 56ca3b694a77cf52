"""Online algorithms: each is an advantage and a loss, and ``ALGORITHMS`` holds them by name.

A new one is two functions, or one beside another's: ``OnlineConfig(algorithm=Algorithm(...))``, or
an entry in ``ALGORITHMS`` for those who choose by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .policy_gradient import clipped, gae, grpo, grpo_loss, p3o, rloo, rloo_loss, token_mean, whiten
from .process_rewards import prime_advantage
from .sequences import Sequences

if TYPE_CHECKING:
    from .online import OnlineConfig


class Rollout(NamedTuple):
    """B completions, K a prompt next to each other, and what they were paid; without gradients.

    The penalty on KL is in ``paid`` and ``total`` unless the config puts it into the loss.
    """

    batch: Sequences
    logp: Tensor  # (B, T) of the policy that sampled
    ref: Tensor  # (B, T) of the reference
    paid: Tensor  # (B, T) of tokens; what a whole completion is paid stands at its last one
    outcome: Tensor  # (B,) of completions, the penalty on KL left out
    total: Tensor  # (B,) with it
    process: Tensor | None = None  # (B, T) the reward's ``token_rewards``, where they are asked for
    value: Tensor | None = None  # (B, T) of the critic, where there is one

    def rows(self, index: Tensor) -> Rollout:
        """Some of the completions."""
        taken = (x if x is None else x[index] for x in self[1:])
        return Rollout(self.batch.rows(index), *taken)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Algorithm:
    """What an online algorithm makes of a rollout.

    Args:
        advantage: (rollout, config) to advantages (B, T), once, of all completions.
        loss: (the policy's log-probabilities (B, T), rollout, advantages (B, T), config) to a
            scalar, once a pass, of the completions that are learned from.
        critic: learn values and give them as ``rollout.value``.
        process: give the reward's ``token_rewards`` as ``rollout.process``.
        paired: it compares the two completions of a prompt, so that k is 2 and all are kept.
        epochs: passes over a rollout, unless the config says.
    """

    advantage: Callable[[Rollout, OnlineConfig], Tensor]
    loss: Callable[[Tensor, Rollout, Tensor, OnlineConfig], Tensor]
    critic: bool = False
    process: bool = False
    paired: bool = False
    epochs: int = 1


def leave_one_out(rollout: Rollout, config: OnlineConfig) -> Tensor:
    """A completion's advantage over the others of its prompt, at each of its tokens."""
    return rloo(rollout.total, config.k).unsqueeze(1) * rollout.batch.completion_mask


def standardised(rollout: Rollout, config: OnlineConfig) -> Tensor:
    """The same in standard deviations of its prompt's rewards."""
    return grpo(rollout.total, config.k).unsqueeze(1) * rollout.batch.completion_mask


def estimated(rollout: Rollout, config: OnlineConfig) -> Tensor:
    """Of tokens, by the critic."""
    assert rollout.value is not None
    return gae(rollout.paid, rollout.value, rollout.batch.completion_mask, config.gae_lambda)


def of_processes(rollout: Rollout, config: OnlineConfig) -> Tensor:
    """Of tokens, from outcomes and from process rewards."""
    assert rollout.process is not None
    mask = rollout.batch.completion_mask
    return prime_advantage(rollout.process, rollout.total, mask, config.k, config.process)


def clip_completions(
    logp: Tensor, rollout: Rollout, advantage: Tensor, config: OnlineConfig
) -> Tensor:
    """One ratio a completion, whose tokens share its advantage; the first is always there."""
    mask = rollout.batch.completion_mask
    return rloo_loss(logp, rollout.logp, advantage[:, 0], mask, config.clip)


def clip_tokens(logp: Tensor, rollout: Rollout, advantage: Tensor, config: OnlineConfig) -> Tensor:
    """One ratio a token, whitened advantages, a mean over the batch's tokens."""
    mask = rollout.batch.completion_mask
    used = whiten(advantage, mask)
    return token_mean(clipped(logp, rollout.logp, used, mask, config.clip), mask)


def clip_tokens_of_each(
    logp: Tensor, rollout: Rollout, advantage: Tensor, config: OnlineConfig
) -> Tensor:
    """One ratio a token, a mean over each completion's tokens and then over completions."""
    return grpo_loss(logp, rollout.logp, advantage, rollout.batch.completion_mask, config.clip)


def compare_pairs(
    logp: Tensor, rollout: Rollout, advantage: Tensor, config: OnlineConfig, joint: bool = False
) -> Tensor:
    """P3O's loss, which is made of the rewards themselves."""
    return p3o((logp - rollout.logp).sum(1), rollout.total, config.clip, joint).mean()


ALGORITHMS: dict[str, Algorithm] = {
    "rloo": Algorithm(leave_one_out, clip_completions),
    "grpo": Algorithm(standardised, clip_tokens_of_each),
    "ppo": Algorithm(estimated, clip_tokens, critic=True, epochs=4),
    "p3o": Algorithm(leave_one_out, compare_pairs, paired=True),
    "p3o_joint": Algorithm(
        leave_one_out, functools.partial(compare_pairs, joint=True), paired=True
    ),
    "prime": Algorithm(of_processes, clip_tokens, process=True),
}
