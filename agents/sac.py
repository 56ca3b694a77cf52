"""Soft actor-critic with a learned temperature (Haarnoja et al. 2018b)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rewardzoo.registration import register_agent

from .common.agent import Env
from .common.hyperparameters import hyper
from .common.n_step import NStep
from .common.off_policy import OffPolicyAgent, OffPolicyHyperparameters, critic_loss, q_target

_LOG_STD = (-20.0, 2.0)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class SACHyperparameters(OffPolicyHyperparameters):
    """SAC's settings; the defaults are the paper's (gradient steps in blocks of ``num_steps``)."""

    entropy: float | None = hyper(
        None, "the entropy (nats, of actions in [-1, 1]) that the temperature aims at; None: -A"
    )
    initial_temperature: float = hyper(1.0, "weight of the entropy at first", low=1e-8)


def squashed(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions ``tanh(mean + std * noise)`` and their log-densities.

    ``log pi(a) = log N(u; mean, std) - sum log(1 - tanh(u)^2)``, the last logarithm as
    ``2 (log 2 - u - softplus(-2 u))``, which is exact for large u too.

    Args:
        outputs: (..., 2 A), means and logarithms of standard deviations, clamped to [-20, 2].
        noise: (..., A) standard normal.

    Returns:
        (..., A) and (...,).

    Paper: Haarnoja et al. (2018), "Soft actor-critic: off-policy maximum entropy deep reinforcement
    learning with a stochastic actor", eq. 21.
    """
    mean, log_std = outputs.chunk(2, -1)
    log_std = log_std.clamp(*_LOG_STD)
    u = mean + log_std.exp() * noise
    normal = -0.5 * noise * noise - log_std - _HALF_LOG_2PI
    squashing = 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
    return torch.tanh(u), (normal - squashing).sum(-1)


@register_agent("sac")
class SAC(OffPolicyAgent):
    """Soft actor-critic, for continuous actions: a stochastic policy that is paid for its entropy.

    Takes flat Box observations. Where the reward function learns, stored transitions are paid anew
    whenever they are sampled.

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        compile: make an iteration's gradient steps as one compiled program (needs a C++ compiler
            on CPU, and half a minute at first). Results agree up to rounding.
        **hyperparameters: see ``SACHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter or space, or a reward function with another discount.

    Example:
        >>> import gymnasium, rewardzoo
        >>> envs = gymnasium.make_vec("rewardzoo/Pendulum-v0", num_envs=2)
        >>> agent = SAC(envs, num_steps=8, learning_starts=16, batch_size=8).learn(64)
        >>> agent.num_timesteps
        64
    """

    Hyperparameters = SACHyperparameters
    outputs_per_action = 2
    noises = 2
    learns_scale = True
    names = (*OffPolicyAgent.names[:-1], "entropy", "temperature", "batch_reward")

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        compile: bool = False,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, compile, **hyperparameters)
        entropy = self.hp.entropy
        self.entropy = -float(self.distribution.num_outputs) if entropy is None else entropy
        with torch.no_grad():
            for network in (self.network, self.target):
                network.actor.scale.fill_(math.log(self.hp.initial_temperature))

    def preferred(self, seen: Tensor) -> Tensor:
        """Actions in [-1, 1] without noise."""
        return torch.tanh(self.network.actor(seen).chunk(2, -1)[0])

    def explore(self, seen: Tensor, noise: Tensor) -> Tensor:
        """Actions of the policy, from normal noise (N, A)."""
        return squashed(self.network.actor(seen), noise)[0]

    @torch.no_grad()
    def q_target(self, batch: NStep, noise: Tensor) -> Tensor:
        """What the critics learn (B,): the value of the next action, and of its entropy."""
        seen = self.network.see(batch.next_obs)
        action, logp = squashed(self.network.actor(seen), noise)
        next_q = self.target.critic(seen, self.network.flagged(batch.next_obs, action))
        temperature = self.network.actor.scale.exp()
        return q_target(batch, next_q - temperature * logp, self.hp.soft_min)

    def critic_terms(self, batch: NStep, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The critics' loss on a batch, and their mean value."""
        q = self.network.critic(self.network.see(batch.obs), batch.action)
        target = self.q_target(batch, noise.chunk(2, -1)[0])
        return critic_loss(q, target, self.hp.loss), q.detach().mean()

    def actor_terms(self, batch: NStep, noise: Tensor) -> list[Tensor]:
        """The actor's loss and the temperature's, in one; entropy and temperature to report.

        ``mean(temperature * log pi - min(Q1, Q2)) - log(temperature) * mean(log pi + entropy)``;
        neither factor of the temperature's is differentiated where it weighs the other.
        """
        seen = self.network.see(batch.obs)
        action, logp = squashed(self.network.actor(seen), noise.chunk(2, -1)[1])
        q = self.network.critic(seen, self.network.flagged(batch.obs, action))
        scale = self.network.actor.scale
        temperature = scale.detach().exp()
        loss = (temperature * logp - torch.minimum(*q)).mean()
        scale_loss = -(scale * (logp.detach() + self.entropy)).mean()
        return [loss + scale_loss, -logp.detach().mean(), temperature.squeeze()]
