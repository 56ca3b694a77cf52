"""ORPO: PPO that is kept near a base policy by its occupancy (Laidlaw, Singhal, Dragan 2024).

``maximise J - coef D(occupancy, base)``. Before an iteration's steps are paid, a discriminator
learns the log-ratio of the occupancies from them; the penalty it gives enters the reward, and so
what an action leads to counts. For comparison, the divergence of action distributions enters the
reward in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rewardzoo.random import SEEDS_APART, Rng, first_row
from rewardzoo.rewards.base import Spaces, number
from rewardzoo.rewards.occupancy import DIVERGENCES, OccupancyPenalty

from .common import trees
from .common.collector import Collector, Rollout
from .ppo import PPO, Batch

BasePolicy = Callable[[Any], Tensor]
"""From observations (N, ...) to action probabilities (N, A), all above 0."""

ACTION_KL = "action_kl"
_BASE_STREAM = 7


class ORPO(PPO):
    """PPO with a penalty on the divergence from a base policy, for finite action sets.

    Args:
        env: as for PPO.
        base: the base policy.
        divergence: of occupancies, "sqrt_chi2", "chi2" or "kl"; or of action distributions,
            "action_kl"; None is plain PPO.
        coef: of the divergence, in units of the reward of a step (for ``sqrt_chi2`` the theory says
            ``rewardzoo.metrics.occupancy.theory_coefficient``).
        base_steps: steps of every environment that are played with the base policy at first.
        **kwargs: as for PPO.
    """

    def __init__(
        self,
        env: Any,
        base: BasePolicy,
        divergence: str | None = "sqrt_chi2",
        coef: float = 0.1,
        base_steps: int = 400,
        **kwargs: Any,
    ) -> None:
        known = (*DIVERGENCES, ACTION_KL, None)
        if divergence not in known:
            raise ValueError(f"divergence={divergence!r}: expected one of {known}")
        super().__init__(env, **kwargs)
        self.base, self.divergence = base, divergence
        self.coef = number("coef", coef, 0.0)
        self.learned: dict[str, float] = {}
        self.penalty: OccupancyPenalty | None = None
        if divergence in DIVERGENCES:
            rollout = play_base(self.envs, base, base_steps, self.seed, self.device)
            self.penalty = OccupancyPenalty(
                trees.flat(rollout.obs), trees.flat(rollout.action), divergence
            )
            space = Spaces(self.envs.single_observation_space, self.envs.single_action_space)
            self.penalty.bind(self.envs.num_envs, self.device, space)

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages of the penalised rewards."""
        obs, action = trees.flat(rollout.obs), trees.flat(rollout.action)
        if self.penalty is not None:
            self.learned = {k: float(v) for k, v in self.penalty.fit(obs, action).items()}
            cost = self.penalty.penalty(obs, action)
        elif self.divergence is not None:
            cost = self._action_log_ratio(obs, action)
        if self.divergence is not None:
            self.learned["penalty"] = float(cost.mean())
            paid = rollout.reward - self.coef * cost.reshape(rollout.reward.shape)
            rollout = rollout._replace(reward=paid)
        return super().prepare(rollout)

    def _action_log_ratio(self, obs: Any, action: Tensor) -> Tensor:
        """``log pi(a | s) / base(a | s)``, (B,); its mean is the divergence, and so its gradient.

        (The divergence at each state would not do as a reward: it does not depend on the action.)
        """
        log_pi = self._evaluate(obs, action)[0]
        return log_pi - self.base(obs).gather(1, action.unsqueeze(1)).squeeze(1).log()

    def _metrics(self, parts: Tensor, sums: Any, batch: Batch) -> dict[str, float]:
        """PPO's, and what the discriminator learned."""
        found = super()._metrics(parts, sums, batch)
        return {**found, **{f"orpo/{k}": v for k, v in self.learned.items()}}


@torch.no_grad()
def play_base(
    envs: Any, base: BasePolicy, num_steps: int, seed: int, device: torch.device
) -> Rollout:
    """Steps of a base policy from fresh episodes; the environments are left to be reset."""
    collector = Collector(envs, device)
    collector.reset(first_row(seed) + SEEDS_APART // 2)  # other rows than an agent's of that seed
    rows = torch.arange(envs.num_envs, device=device) + first_row(seed)
    count = [0]

    def act(obs: Any, memory: Tensor, began: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        count[0] += 1
        action = Rng(rows, 0 * rows, count[0], _BASE_STREAM).categorical(base(obs))
        return action, action, memory

    return collector.collect(num_steps, act)[0]


def imitate(agent: PPO, rollout: Rollout, base: BasePolicy, epochs: int = 20) -> float:
    """Start an agent's policy at the base: fit its logits; returns the last mean KL divergence."""
    obs = trees.flat(rollout.obs)
    target = base(obs)
    rows = len(target)
    optimizer = torch.optim.Adam([agent.parameters], lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    memory = torch.zeros(rows, 0, device=agent.device)
    began = torch.zeros(rows, dtype=torch.bool, device=agent.device)
    loss = torch.zeros(())
    for _ in range(epochs):
        for part in torch.randperm(rows, generator=generator).split(512):
            seen = trees.rows(obs, part)
            logits = agent._outputs(seen, memory[part], began[part])[0].log_softmax(1)
            loss = (target[part] * (target[part].log() - logits)).sum(1).mean()
            agent.parameters.grad.zero_()
            loss.backward()
            optimizer.step()
    agent.parameters.grad.zero_()
    return float(loss.detach())
