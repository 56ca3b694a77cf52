"""Off-policy generative adversarial imitation (Blondé, Strasser, Kalousis 2022).

TD3 on an ``AdversarialReward``, whose slope is penalised: stored steps are paid by the present
score whenever they are sampled, and the score makes as many gradient steps as the critics. With
PPO on the same reward it is plain GAIL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rewardzoo.registration import register_agent
from rewardzoo.rewards.adversarial import AdversarialReward
from rewardzoo.rewards.forward_model import ForwardModel
from rewardzoo.rewards.lipschitz import (
    gradient_norm,
    jacobian,
    value_growth,
    value_lipschitz_bound,
    value_lipschitz_square_root,
)

from .common.agent import Env
from .common.hyperparameters import hyper
from .td3 import TD3, TD3Hyperparameters

_ROWS = 128  # looked at by a monitor
_FITS = 50  # steps of the forward model each time


@dataclass(frozen=True)
class GAILHyperparameters(TD3Hyperparameters):
    """The authors' settings of the learner; the reward has its own.

    Simpler than theirs: exploration is by Gaussian noise, not by noisy parameters.
    """

    num_steps: int = hyper(2, "steps of every environment between two updates", low=1)
    learning_starts: int = hyper(
        1000, "environment steps before the first update, with uniformly random actions", low=0
    )
    batch_size: int = hyper(64, "windows of a gradient step", low=1)
    buffer_size: int = hyper(100_000, "transitions kept", low=2)
    learning_rate: float = hyper(2.5e-4, "step size of Adam, of actor and critics", low=0.0)
    anneal_lr: bool = hyper(True, "let the actor's step size fall linearly to 0 over learn()")
    n_step: int = hyper(10, "rewards summed before a value stands for the rest", low=1)
    soft_min: float = hyper(
        0.75, "weight of the smaller of two values, the larger has the rest", low=0.0, high=1.0
    )
    loss: str = hyper("huber", "of the critics: 'mse' or 'huber'")
    max_grad_norm: float | None = hyper(40.0, "the actor's gradient is scaled down to this norm")
    actor_hidden: tuple[int, ...] = hyper((300, 200), "widths of the actor's hidden layers")
    layer_norm: bool = hyper(True, "normalise every hidden layer before its ReLU")
    initialisation: str = hyper("orthogonal", "of the networks")
    clip_observations: float | None = hyper(
        5.0, "standardise observations by running moments and clip them to this; None: neither"
    )
    monitor_every: int = hyper(
        5000, "environment steps between two looks at the value's slope; 0: none", low=0
    )


@register_agent("gail")
class GAIL(TD3):
    """Imitation from demonstrations by TD3 and a discriminator whose slope is held.

    Its environments pay by an ``AdversarialReward`` (alone or composed), the rest is TD3's. Besides
    what TD3 and the reward log, it logs the steepness of the first critic and what bounds it, with
    states and actions in standard units:

    ==============================  ================================================================
    ``gail/lipschitz_q``            the largest ``||grad Q||`` on replayed steps
    ``gail/lipschitz_q_bound``      ``delta * sum of rho^k`` over an episode; see
                                    ``value_lipschitz_bound``
    ``gail/lipschitz_q_root``       the authors' tighter form, which may be exceeded
    ``gail/lipschitz_reward``       delta, the largest ``||grad r||`` there
    ``gail/lipschitz_dynamics``     A, the largest norm of a learned forward model's Jacobian
    ``gail/lipschitz_policy``       B, the largest norm of the policy's Jacobian
    ``gail/growth``                 ``rho = gamma A sqrt(1 + B^2)``
    ==============================  ================================================================

    Args:
        env: a Gymnasium vector environment that pays by an ``AdversarialReward``.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        compile: see ``TD3``; the reward has an argument of its own.
        **hyperparameters: see ``GAILHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter or space, or environments with another reward.
    """

    Hyperparameters = GAILHyperparameters
    parts = (*TD3.parts, "dynamics", "dynamics_optimizer")

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        compile: bool = False,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, compile, **hyperparameters)
        if self.hp.absorbing:
            raise ValueError(
                "absorbing=True: expected False; the reward pays what comes after an end itself: "
                "AdversarialReward(absorbing=True)"
            )
        fns = [] if self.learned_reward is None else self.learned_reward.functions()
        found = [fn for fn in fns if isinstance(fn, AdversarialReward)]
        if len(found) != 1:
            raise ValueError(
                f"env: it pays by {len(found)} adversarial rewards, expected one; wrap it: "
                "VectorRewardWrapper(env, AdversarialReward(demos))"
            )
        self.adversarial = found[0]
        (num_states,) = self.envs.single_observation_space.shape
        num_inputs = num_states + self.distribution.num_outputs
        self.dynamics = ForwardModel(num_states, num_inputs, seed).to(self.device)
        self.dynamics_optimizer = self.dynamics.optimizer

    def iterate(self) -> dict[str, float]:
        """TD3's iteration, and every so often a look at the value's slope."""
        metrics = super().iterate()
        every, played = self.hp.monitor_every, self.num_steps * self.envs.num_envs
        before = self.num_timesteps
        if every and (before + played) // every > before // every:
            metrics.update(self.monitor())
        return metrics

    def monitor(self) -> dict[str, float]:
        """How steep the first critic is on replayed steps, and the bound of that."""
        index = torch.arange(_ROWS * (_FITS + 1), device=self.device) * 7919 % len(self.replay)
        t = self.replay.transitions(index)  # spread over the replay by a prime
        adversarial, network = self.adversarial, self.network
        mean, scale = adversarial.standard()
        state, following = ((x - mean) * scale for x in (t.obs, t.next_obs))
        inputs = torch.cat([state, t.action], 1)
        fit = (x[_ROWS:].unflatten(0, (_FITS, _ROWS)) for x in (inputs, following))
        self.dynamics.fit(*fit)
        z = inputs[:_ROWS]
        rows = self.replay.transitions(index[:_ROWS])

        def raw(z: Tensor) -> tuple[Tensor, Tensor]:
            return z[:, : len(mean)] / scale + mean, z[:, len(mean) :]

        def value(z: Tensor) -> Tensor:
            obs, action = raw(z)
            return network.critic(network.see(obs), action, 1)[0]

        def reward(z: Tensor) -> Tensor:
            obs, action = raw(z)
            return adversarial.relabel(replace(rows, obs=obs, action=self.to_env(action)))

        def policy(state: Tensor) -> Tensor:
            return self.preferred(network.see(state / scale + mean))

        def steepest(matrices: Tensor) -> float:
            return float(torch.linalg.matrix_norm(matrices, 2).max())

        delta, slope = (float(gradient_norm(f, z).max()) for f in (reward, value))
        a = steepest(jacobian(self.dynamics, z))
        b = steepest(jacobian(policy, z[:, : len(mean)]))
        horizon = self.envs.spec.max_episode_steps if self.envs.spec else None
        gamma = self.gamma
        bound = value_lipschitz_bound(delta, a, b, gamma, horizon or math.inf)
        return {
            "gail/lipschitz_q": slope,
            "gail/lipschitz_q_bound": bound,
            "gail/lipschitz_q_root": value_lipschitz_square_root(delta, a, b, gamma),
            "gail/lipschitz_reward": delta,
            "gail/lipschitz_dynamics": a,
            "gail/lipschitz_policy": b,
            "gail/growth": value_growth(a, b, gamma),
        }
