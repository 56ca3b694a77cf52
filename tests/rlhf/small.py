"""A small decoder, a reward that counts a token, and trainers of the two, for tests."""

from __future__ import annotations

import torch

from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.iterative import IterativeTrainer
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.pairs import PairBatch
from rewardzoo.rlhf.sampling import sample

EOS = 1


def model(seed=0):
    return Decoder(DecoderConfig(12, 16, 16, 1, 2, EOS), seed).eval()


def prompts(n, generator):
    return torch.randint(2, 12, (n, 3), generator=generator)


def count(batch):
    """How often token 5 appears."""
    return ((batch.completions == 5) & batch.completion_mask).sum(1).float()


def biased(policy, token, log_odds):
    """It says one token with these log-odds over each of the others, whatever it has read."""
    with torch.no_grad():
        policy.norm.weight.zero_()
        policy.norm.bias.copy_(torch.eye(policy.width)[0])
        policy.embed.weight[:, 0] = 0.0
        policy.embed.weight[token, 0] = log_odds
    return policy


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def spoken(policy, n=64):
    generator = torch.Generator().manual_seed(99)
    return sample(policy, prompts(n, generator), 8, generator)


def pairs():
    batch = spoken(model())
    return PairBatch(
        batch.rows(torch.arange(32)),
        batch.rows(torch.arange(32, 64)),
        torch.ones(32),
        torch.ones(32),
    )


def online(reward=count, ref=None, **config):
    given = {"prompts": 8, "new_tokens": 8, "learning_rate": 3e-3, **config}
    return OnlineTrainer(model(), ref or model(), reward, prompts, OnlineConfig(**given))


def iterative(policy, select, fit, reward=count, **config):
    given = {"n": 4, "batch_size": 8, "new_tokens": 8, **config}
    return IterativeTrainer(policy, reward, prompts, select, fit, **given)
