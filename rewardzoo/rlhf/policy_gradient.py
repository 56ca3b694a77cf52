"""Advantages of sequence rewards, and the losses of online algorithms, as pure functions.

Completions of one prompt stand next to each other, K at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sequences import moved


def groups_of(reward: Tensor, k: int) -> Tensor:
    """Rewards (B / K, K) of the completions of each prompt."""
    if k < 2:
        raise ValueError(f"k={k}: expected at least 2 completions a prompt")
    return reward.view(-1, k)


def rloo(reward: Tensor, k: int) -> Tensor:
    """The reward (B,) minus the mean of the other completions of its prompt.

    Paper: Ahmadian et al. (2024), "Back to basics".

    Example:
        >>> rloo(torch.tensor([1.0, 0.0, 0.5]), 3)
        tensor([ 0.7500, -0.7500,  0.0000])
    """
    groups = groups_of(reward, k)
    return ((groups - groups.mean(1, keepdim=True)) * (k / (k - 1))).reshape(-1)


def grpo(reward: Tensor, k: int, eps: float = 1e-4) -> Tensor:
    """The reward (B,) standardised within its prompt, by the sample standard deviation.

    Paper: Shao et al. (2024), "DeepSeekMath", section 4.1.
    """
    groups = groups_of(reward, k)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + eps)).reshape(-1)


def gae(reward: Tensor, value: Tensor, mask: Tensor, gae_lambda: float = 0.95) -> Tensor:
    """Advantages (B, T) of token rewards (B, T), undiscounted; no future after the mask ends.

    Paper: Schulman et al. (2016), "High-dimensional continuous control using generalized
    advantage estimation", eq. 16.
    """
    value = value * mask
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    delta = (reward + following - value) * mask
    advantage = torch.zeros_like(delta[:, 0])
    out = []
    for t in range(delta.shape[1] - 1, -1, -1):
        advantage = delta[:, t] + gae_lambda * advantage
        out.append(advantage)
    return torch.stack(out[::-1], 1)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the mask; 0 outside."""
    n = mask.sum()
    mean = (x * mask).sum() / n
    variance = (((x - mean) ** 2) * mask).sum() / n
    return (x - mean) / (variance + 1e-8).sqrt() * mask


def clipped(
    logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """PPO's clipped loss, summed over tokens: one number a sequence, (B,).

    Args:
        logp: (B, T) of the policy.
        old: (B, T) of the policy that sampled.
        advantage: (B, T).
        mask: (B, T) bool.
        clip: of the probability ratio.

    Paper: Schulman et al. (2017), "Proximal policy optimization algorithms", eq. 7.
    """
    ratio = torch.exp((logp - old) * mask)
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return (loss * mask).sum(1)


def value_loss(
    value: Tensor, old: Tensor, target: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """The critic's squared error, a mean over tokens, a scalar; PPO's, with values clipped.

    Of a value and of one no further than ``clip`` from what it was at the rollout, the worse one
    counts, so that a value that has moved that far is not pushed on.

    Args:
        value: (B, T) of the critic.
        old: (B, T) of the critic at the rollout.
        target: (B, T) rewards to go.
        mask: (B, T) bool.
        clip: of the distance from ``old``.
    """
    near = old + (value - old).clamp(-clip, clip)
    worse = torch.maximum((value - target) ** 2, (near - target) ** 2)
    return (worse * mask).sum() / mask.sum()


def at_the_end(score: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B, T) of tokens: a completion's (B,) at its last one, 0 elsewhere."""
    last = (mask.sum(1) - 1).unsqueeze(1)
    return score.new_zeros(mask.shape).scatter(1, last, score.unsqueeze(1))


def token_mean(each: Tensor, mask: Tensor) -> Tensor:
    """Sums over tokens (B,) as a mean over all tokens of the batch, a scalar."""
    return each.sum() / mask.sum()


def grpo_loss(
    logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """The clipped loss, a mean over each sequence's tokens and then over sequences, a scalar.

    Arguments as for ``clipped``.

    Paper: Shao et al. (2024), "DeepSeekMath", section 4.1.
    """
    return (clipped(logp, old, advantage, mask, clip) / mask.sum(1)).mean()


def rloo_loss(
    logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, clip: float = 0.2
) -> Tensor:
    """The clipped loss of whole sequences, each one action with one ratio; a mean, a scalar.

    Args:
        logp: (B, T) of the policy.
        old: (B, T) of the policy that sampled.
        advantage: (B,).
        mask: (B, T) bool.
        clip: of the probability ratio of sequences.

    Paper: Ahmadian et al. (2024), "Back to basics".
    """
    whole = torch.ones_like(mask[:, :1])
    logps = [(x * mask).sum(1, keepdim=True) for x in (logp, old)]
    return clipped(logps[0], logps[1], advantage.unsqueeze(1), whole, clip).mean()


def p3o(log_ratio: Tensor, reward: Tensor, clip: float = 0.2, joint: bool = False) -> Tensor:
    """Pairwise PPO: one loss a pair, (B / 2,).

    Args:
        log_ratio: (B,) of sequences, policy over the policy that sampled, pairs next to each other.
        reward: (B,), the penalty on KL included.
        clip: of the probability ratios.
        joint: clip the quotient of the two ratios, not each. The paper's joint form has their
            product.

    Paper: Wu et al. (2023), "Pairwise proximal policy optimization".
    """
    w1, w2 = log_ratio.exp().view(-1, 2).unbind(1)
    r1, r2 = reward.view(-1, 2).unbind(1)
    a = (r1 - r2) / 2
    low, high = 1 - clip, 1 + clip
    if joint:
        u = w1 / w2
        return -torch.minimum(u * a, u.clamp(low, high) * a)
    first = torch.minimum(w1 * a, w1.clamp(low, high) * a)
    second = torch.minimum(-w2 * a, -w2.clamp(low, high) * a)
    return -(first + second)


def kl_estimates(log_ratio: Tensor) -> dict[str, Tensor]:
    """Schulman's k1, k2 and k3 of log-ratios l = log pi / ref, under samples of pi.

    As values k1 and k3 are unbiased. Differentiated as losses on samples, k1 has gradient 0 in
    expectation, k2 that of KL(pi || ref), k3 that of KL(ref || pi).
    """
    return {
        "k1": log_ratio,
        "k2": log_ratio**2 / 2,
        "k3": torch.expm1(-log_ratio) + log_ratio,
    }


def clip_steps(score: Tensor, mask: Tensor, eta: float = 0.5) -> Tensor:
    """``min(score - eta, 0)`` of the steps of a solution (B, S): no step is worth adding.

    Paper: Gao et al. (2024), "On designing effective RL reward at training time for LLM
    reasoning", section 4.2, "Clip".
    """
    return (score - eta).clamp(max=0.0) * mask


def delta_steps(score: Tensor, mask: Tensor) -> Tensor:
    """Each step's score minus the next one's (B, S), the last step's own: they sum to the first's.

    So rewards to go are scores, and however many steps there are, their sum is bounded.

    Paper: Gao et al. (2024), as for ``clip_steps``, "Delta".
    """
    score = score * mask
    following = torch.cat([score[:, 1:], torch.zeros_like(score[:, :1])], 1)
    return (score - following) * mask


def kept_by_accuracy(right: Tensor, k: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    """Online prompt filtering: indices of the completions of prompts neither too hard nor too easy.

    Args:
        right: (B,) 1 for right completions and 0 for wrong ones, K a prompt.
        k: K.
        low: least share of right completions of a prompt that is kept.
        high: largest.

    Paper: Cui et al. (2025), "Process reinforcement through implicit rewards".
    """
    share = groups_of(right, k).mean(1, keepdim=True)
    # A share of right ones is a count over K, in rounded numbers.
    kept = (share >= low - 1e-6) & (share <= high + 1e-6)
    return kept.expand(-1, k).reshape(-1).nonzero().squeeze(1)


def kept_by_filter(reward: Tensor, k: int, how: str, generator: torch.Generator) -> Tensor:
    """Policy filtration: indices of the completions that are learned from, in groups.

    Args:
        reward: (B,), K completions a prompt.
        k: K.
        how: "all", "best", "best_random" or "best_worst".
        generator: of the random ones.

    Paper: Shen, Zhang (2024), "Policy filtration in RLHF to fine-tune LLM for code generation".
    """
    groups = groups_of(reward, k)
    order = groups.argsort(1, descending=True)
    if how == "all":
        kept = order.sort(1).values
    elif how == "best":
        kept = order[:, :1]
    elif how == "best_worst":
        kept = order[:, [0, -1]]
    elif how == "best_random":
        shape, place = (len(groups), 1), generator.device
        other = torch.randint(1, k, shape, generator=generator, device=place)
        kept = torch.cat([order[:, :1], order.gather(1, moved(other, reward.device))], 1)
    else:
        raise ValueError(f"how={how!r}: expected all, best, best_random or best_worst")
    first = torch.arange(len(groups), device=reward.device).unsqueeze(1) * k
    return (first + kept).reshape(-1)
