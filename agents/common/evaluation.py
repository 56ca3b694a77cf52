"""Evaluate a policy on fresh episodes, without favouring short ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewardzoo.random import Rng

from .collector import Collector

_EVALUATION_STREAM = 3


@torch.no_grad()
def evaluate(
    agent: Any, envs: Any, num_episodes: int, deterministic: bool, seed: int
) -> dict[str, Tensor]:
    """Play ``ceil(num_episodes / N)`` whole episodes in each of N environments.

    Every environment plays equally many, so long episodes count as much as short ones.

    Args:
        agent: anything with ``act``, ``distribution``, ``network`` and ``device``.
        envs: a vector environment of its own, not the one in training.
        num_episodes: at least so many.
        deterministic: take the most likely action.
        seed: of environments and actions.

    Returns:
        ``return`` (what the environment paid), ``objective`` and ``length``, each (E,) float32,
        by environment, then by episode.
    """
    if not num_episodes >= 1:
        raise ValueError(f"num_episodes={num_episodes}: expected an integer >= 1")
    num_envs = envs.num_envs
    quota = -(-num_episodes // num_envs)
    collector = Collector(envs, agent.device, agent.network.memory_size)
    collector.reset(seed)
    rows = torch.arange(num_envs, device=agent.device) + seed
    zero = torch.zeros_like(rows)
    played = torch.zeros_like(rows)
    sums = torch.zeros(3, num_envs, device=agent.device)
    results: Tensor = torch.zeros(3, num_envs, quota, device=agent.device)
    block, chunk = 32, 0

    def act(
        obs: Any, memory: Tensor, began: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        action, memory = agent.act(obs, memory, began, noise)
        return action, action, memory

    while bool((played < quota).any()):
        noise = None
        if not deterministic:
            rng = Rng(rows, zero + chunk, 0, _EVALUATION_STREAM)
            noise = agent.distribution.noise(rng, block)
        rollout, _ = collector.collect(block, act, noise)
        chunk += 1
        valid = torch.ones_like(rollout.reward) if rollout.valid is None else rollout.valid
        done = rollout.done
        for t in range(block):
            sums = sums + torch.stack([rollout.reward[t], rollout.objective[t], valid[t].float()])
            slot = torch.nn.functional.one_hot(played.clamp(max=quota - 1), quota).bool()
            write = slot & (done[t] & (played < quota)).unsqueeze(1)
            results = torch.where(write, sums.unsqueeze(-1), results)
            played = played + done[t]
            sums = torch.where(done[t], 0.0, sums)
    names = ("return", "objective", "length")
    return {k: v.reshape(-1) for k, v in zip(names, results, strict=True)}
