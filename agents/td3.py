"""Twin delayed deep deterministic policy gradient (Fujimoto, van Hoof, Meger 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewardzoo.registration import register_agent

from .common.hyperparameters import hyper
from .common.n_step import NStep
from .common.off_policy import OffPolicyAgent, OffPolicyHyperparameters, critic_loss, q_target


@dataclass(frozen=True)
class TD3Hyperparameters(OffPolicyHyperparameters):
    """TD3's settings; the defaults are the paper's.

    But for two of order: the paper makes one gradient step after every environment step (here as
    many, in blocks of ``num_steps``), and moves the targets with the actor (here with the critics,
    which is twice as often).
    """

    learning_starts: int = hyper(
        10_000, "environment steps before the first update, with uniformly random actions", low=0
    )
    batch_size: int = hyper(100, "transitions of a gradient step", low=1)
    learning_rate: float = hyper(1e-3, "step size of the actor's Adam", low=0.0)
    actor_hidden: tuple[int, ...] = hyper((400, 300), "widths of the actor's hidden layers")
    critic_hidden: tuple[int, ...] = hyper((400, 300), "widths of the critics' hidden layers")
    policy_delay: int = hyper(2, "critic steps for each step of the actor", low=1)
    exploration_noise: float = hyper(0.1, "standard deviation, of half the action's range", low=0.0)
    target_noise: float = hyper(0.2, "standard deviation of the target action's noise", low=0.0)
    target_noise_clip: float = hyper(0.5, "bound of the target action's noise", low=0.0)


@register_agent("td3")
class TD3(OffPolicyAgent):
    """Twin delayed deterministic policy gradient, for continuous actions.

    Two critics, of which the target takes the smaller value; noise on the target's action; an
    actor that learns half as often. Takes flat Box observations. Where the reward function
    learns, stored transitions are paid anew whenever they are sampled.

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        compile: make an iteration's gradient steps as one compiled program (needs a C++ compiler
            on CPU, and half a minute at first). Results agree up to rounding.
        **hyperparameters: see ``TD3Hyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter or space, or a reward function with another discount.

    Example:
        >>> import gymnasium, rewardzoo
        >>> envs = gymnasium.make_vec("rewardzoo/Pendulum-v0", num_envs=2)
        >>> agent = TD3(envs, num_steps=8, learning_starts=16, batch_size=8).learn(64)
        >>> agent.num_timesteps
        64
    """

    Hyperparameters = TD3Hyperparameters

    @property
    def delay(self) -> int:
        """Critic steps for each step of the actor."""
        return self.hp.policy_delay

    def preferred(self, seen: Tensor) -> Tensor:
        """Actions in [-1, 1] without noise."""
        return torch.tanh(self.network.actor(seen))

    def explore(self, seen: Tensor, noise: Tensor) -> Tensor:
        """``clip(mu(s) + exploration_noise * N(0, 1), -1, 1)``."""
        action = self.preferred(seen) + self.hp.exploration_noise * noise
        return action.clamp(-1.0, 1.0)

    @torch.no_grad()
    def q_target(self, batch: NStep, noise: Tensor) -> Tensor:
        """What the critics learn (B,): the target action is smoothed by clipped noise."""
        hp, target = self.hp, self.target
        seen = target.see(batch.next_obs)
        bound = hp.target_noise_clip
        smoothing = (hp.target_noise * noise).clamp(-bound, bound)
        action = (torch.tanh(target.actor(seen)) + smoothing).clamp(-1.0, 1.0)
        next_q = target.critic(seen, target.flagged(batch.next_obs, action))
        return q_target(batch, next_q, hp.soft_min)

    def critic_terms(self, batch: NStep, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The critics' loss on a batch, and their mean value."""
        q = self.network.critic(self.network.see(batch.obs), batch.action)
        return critic_loss(q, self.q_target(batch, noise), self.hp.loss), q.detach().mean()

    def actor_terms(self, batch: NStep, noise: Tensor) -> list[Tensor]:
        """The actor's loss: minus the first critic's mean value of its actions."""
        seen = self.network.see(batch.obs)
        action = self.network.flagged(batch.obs, self.preferred(seen))
        return [-self.network.critic(seen, action, 1).mean()]
