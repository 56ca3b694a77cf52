"""An autoregressive table of 40 sequences, where every expectation is exact."""

from __future__ import annotations

import torch

V, T, EOS = 4, 3, 0


def sequences():
    """All sequences that end with EOS or are T long: 40."""
    done, running = [], [()]
    for _ in range(T):
        grown = [s + (v,) for s in running for v in range(V)]
        done += [s for s in grown if s[-1] == EOS]
        running = [s for s in grown if s[-1] != EOS]
    return done + running


SEQUENCES = sequences()
PREFIXES = sorted({s[:i] for s in SEQUENCES for i in range(len(s))})


def table(seed):
    """Logits (13, 4) float64 of a random policy."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(PREFIXES), V, generator=generator, dtype=torch.float64)


def logps(logits):
    """Log-probabilities (40,) of all sequences."""
    logp = logits.log_softmax(-1)
    at = {p: i for i, p in enumerate(PREFIXES)}
    return torch.stack([sum(logp[at[s[:i]], s[i]] for i in range(len(s))) for s in SEQUENCES])


def step_kls(logits, ref):
    """Sum over a sequence's steps of the exact KL of next-token distributions, (40,)."""
    logp, q = logits.log_softmax(-1), ref.log_softmax(-1)
    kl = (logp.exp() * (logp - q)).sum(-1)
    at = {p: i for i, p in enumerate(PREFIXES)}
    return torch.stack([sum(kl[at[s[:i]]] for i in range(len(s))) for s in SEQUENCES])
