"""Proximal policy optimisation (Schulman et al. 2017), on the device from rollout to update.

One iteration: ``collect`` plays ``num_steps`` steps with the actor alone; ``prepare`` computes
values, log-probabilities and advantages for the whole rollout at once (the parameters have not
changed since, so they are what they would have been inside the loop); ``update`` makes
``num_epochs`` passes over minibatches. None of the three asks the device for a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rewardzoo.compiled import Loop, Tensors
from rewardzoo.random import Rng
from rewardzoo.registration import register_agent
from rewardzoo.transition import Obs

from .common import trees
from .common.adam import adam
from .common.advantages import gae
from .common.agent import Env
from .common.collector import Collector, CompiledCollector, EpisodeSums, Rollout
from .common.fused import FusedGradient
from .common.hyperparameters import hyper
from .common.layers import ACTIVATIONS
from .common.policy import PolicyAgent

_SHUFFLE_STREAM = 2  # environments draw from stream 0, actions from 1


@dataclass(frozen=True)
class PPOHyperparameters:
    """PPO's settings; the defaults are the community's for many short environments."""

    num_steps: int = hyper(128, "steps of every environment between two updates", low=1)
    num_epochs: int = hyper(4, "passes over a rollout", low=1)
    num_minibatches: int = hyper(4, "parts of a rollout, one gradient step each", low=1)
    learning_rate: float = hyper(2.5e-4, "step size of Adam", low=0.0)
    anneal_lr: bool = hyper(False, "let the step size fall linearly to 0 over learn()")
    gamma: float = hyper(0.99, "discount", low=0.0, high=1.0)
    gae_lambda: float = hyper(0.95, "bias against variance of the advantages", low=0.0, high=1.0)
    clip_range: float = hyper(0.2, "how far the probability ratio may move", low=0.0)
    clip_range_vf: float | None = hyper(None, "how far the value may move; None: freely")
    normalize_advantage: bool = hyper(True, "standardise advantages in every minibatch")
    ent_coef: float = hyper(0.0, "weight of the entropy bonus", low=0.0)
    vf_coef: float = hyper(0.5, "weight of the value loss", low=0.0)
    intrinsic: str | None = hyper(None, "reward term with a value head and discount of its own")
    intrinsic_gamma: float = hyper(0.99, "its discount", low=0.0, high=1.0)
    max_grad_norm: float = hyper(0.5, "gradients are scaled down to this norm", low=0.0)
    target_kl: float | None = hyper(
        None, "stop an update beyond 1.5 times this divergence (asks the device every step)"
    )
    adam_eps: float = hyper(1e-5, "Adam's epsilon", low=0.0)
    hidden: tuple[int, ...] = hyper((64, 64), "widths of the hidden layers")
    activation: str = hyper("tanh", f"one of {', '.join(ACTIVATIONS)}")
    recurrent: str | None = hyper(None, "None, 'gru' or 'lstm'")
    recurrent_size: int = hyper(128, "width of the recurrent core", low=1)
    normalize_observations: bool = hyper(False, "standardise Box observations")

    def __post_init__(self) -> None:
        """Check what bounds alone cannot."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: expected {', '.join(ACTIVATIONS)}")
        if self.recurrent not in (None, "gru", "lstm"):
            raise ValueError(f"recurrent={self.recurrent!r}: expected None, 'gru' or 'lstm'")
        for name in ("clip_range_vf", "target_kl"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value}: expected None or a finite number > 0")


class Batch(NamedTuple):
    """What the loss needs of B transitions."""

    obs: Obs  # (B, ...)
    action: Tensor  # (B, ...)
    logp: Tensor  # (B,), under the policy that acted
    value: Tensor  # (B,), at that time; (B, 2) with a head for an intrinsic reward
    advantage: Tensor  # (B,)
    returns: Tensor  # like value, its target
    weight: Tensor | None  # (B,) float32, 0 on dead steps; None where all count
    began: Tensor  # (B,) bool
    memory: Tensor | None  # (N, M) before the first step, for recurrent policies


def policy_and_value_loss(
    logp: Tensor,
    entropy: Tensor,
    value: Tensor,
    batch: Batch,
    hp: PPOHyperparameters,
    total: Tensor | int,
) -> tuple[Tensor, Tensor]:
    """The loss of a minibatch and its parts.

    ``ratio = exp(logp - batch.logp)``,
    ``policy_loss = -mean(min(ratio * advantage, clip(ratio, 1 ± clip_range) * advantage))``,
    ``value_loss = mean((returns - value)^2)``, with ``value`` clipped around the old one if asked,
    ``loss = policy_loss + vf_coef * value_loss - ent_coef * mean(entropy)``.

    Args:
        logp: (B,) of the actions now.
        entropy: (B,) of the policy now.
        value: (B,) now.
        batch: the stored rest.
        hp: coefficients.
        total: over how many rows the means are taken; more than B where B is one part of a
            minibatch whose gradients are added up.

    Returns:
        The loss, and (5,) policy loss, value loss, entropy, approximate KL divergence, share of
        clipped ratios.

    Paper: Schulman et al. (2017), "Proximal policy optimization algorithms", eq. 7 and 9.
    """

    def mean(x: Tensor) -> Tensor:
        return (x if batch.weight is None else x * batch.weight).sum() / total

    log_ratio = logp - batch.logp
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - hp.clip_range, 1.0 + hp.clip_range)
    policy_loss = -mean(torch.minimum(ratio * batch.advantage, clipped * batch.advantage))
    if hp.clip_range_vf is not None:
        change = (value - batch.value).clamp(-hp.clip_range_vf, hp.clip_range_vf)
        value = batch.value + change
    error = batch.returns - value
    squared = error * error
    value_loss = mean(squared if squared.ndim == 1 else squared.sum(-1))
    mean_entropy = mean(entropy)
    loss = policy_loss + hp.vf_coef * value_loss - hp.ent_coef * mean_entropy
    with torch.no_grad():
        approx_kl = mean(ratio - 1.0 - log_ratio)
        clip_fraction = mean(((ratio - 1.0).abs() > hp.clip_range).to(torch.float32))
        parts = torch.stack([policy_loss, value_loss, mean_entropy, approx_kl, clip_fraction])
    return loss, parts


@register_agent("ppo")
class PPO(PolicyAgent):
    """Proximal policy optimisation for discrete, multi-discrete and continuous actions.

    Takes Box, picture, Discrete and Dict observations; an entry ``action_mask`` of a Dict
    observation forbids actions. With ``recurrent`` the policy has memory. With ``intrinsic``, the
    name of a term in ``info["reward_terms"]``, that part of the reward has a value head and a
    discount of its own, and both kinds' advantages are added up (Burda et al. 2019).

    Args:
        env: a Gymnasium vector environment, a single one, or an id.
        seed: of parameters, actions and environments.
        device: where it computes; default: the environments' device.
        compile: run whole loops as compiled programs (needs a C++ compiler on CPU, and half a
            minute at first): the update, and the rollout where the environments are functional
            ones without wrappers. Results agree up to rounding. For policies without memory.
        **hyperparameters: see ``PPOHyperparameters``.

    Raises:
        ValueError: for a bad hyperparameter, or a reward function with another discount.

    Example:
        >>> import gymnasium, rewardzoo
        >>> envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=4)
        >>> agent = PPO(envs, num_steps=8).learn(64)
        >>> agent.num_timesteps
        64
    """

    Hyperparameters = PPOHyperparameters

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        device: torch.device | str | None = None,
        compile: bool = False,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(env, seed, device, hyperparameters)
        hp: PPOHyperparameters = self.hp
        self._rows = self.envs.num_envs * (1 if hp.recurrent else hp.num_steps)
        if hp.num_minibatches > self._rows:
            raise ValueError(
                f"num_minibatches={hp.num_minibatches}: expected at most {self._rows}, the number "
                + ("of environments (sequences stay whole)" if hp.recurrent else "of steps")
            )
        self.optimizer = torch.optim.Adam(
            [self.parameters], lr=hp.learning_rate, eps=hp.adam_eps, fused=_fused(self.device)
        )
        if compile:
            _check_compilable(hp, self._rows)
        fits = compile and hp.intrinsic is None and CompiledCollector.fits(self.envs)
        collector = CompiledCollector if fits else Collector
        self.collector = collector(self.envs, self.device, self.network.memory_size, hp.intrinsic)
        self._fused: FusedGradient | None = None
        self._update_loop: Loop | None = None
        if self.device.type == "cpu" and FusedGradient.fits(self.network, self.distribution):
            self._fused = FusedGradient(self.network)
        # A part of a minibatch fits the processor's cache; a GPU takes it whole.
        self._part = 8192 if self.device.type == "cpu" else 1 << 62
        # With so many rows arithmetic counts, and the hand-written gradient is the faster one.
        large = self._fused is not None and self._rows > self._part * hp.num_minibatches
        self._compiles_update = compile and not large

    @property
    def num_values(self) -> int:
        """A second head for the intrinsic reward."""
        return 1 if self.hp.intrinsic is None else 2

    # ---- one iteration -----------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Collect, prepare, update."""
        rollout, sums = self.collect()
        batch = self.prepare(rollout)
        return self._metrics(self.update(batch), sums, batch)

    def _metrics(self, parts: Tensor, sums: EpisodeSums, batch: Batch) -> dict[str, float]:
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        learned = dict(zip(names, parts, strict=True))
        unexplained = (batch.returns - batch.value).var() / batch.returns.var()
        return self.read({**learned, "explained_variance": 1.0 - unexplained}, sums)

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Batch:
        """Values, log-probabilities and advantages of a rollout, flattened to B = T * N rows."""
        network = self.network
        steps, num_envs = rollout.reward.shape
        obs, next_obs = trees.flat(rollout.obs), trees.flat(rollout.next_obs)
        action, began = trees.flat(rollout.action), trees.flat(rollout.began)
        if network.core is None:
            pieces = []
            count = steps * num_envs
            for start in range(0, count, self._part):
                part = slice(start, min(start + self._part, count))
                logp, _, value = self._evaluate(trees.rows(obs, part), action[part])
                pieces.append((logp, value))
            logp, value = (torch.cat(p) for p in zip(*pieces, strict=True))
            next_value = self._next_value(rollout, value)
        else:
            memories = self._memories(obs, began, rollout.memory)
            features = memories[:, : network.width]
            logp, _ = self.distribution.logp_entropy(
                network.policy(features, obs), network.log_std, action
            )
            value = network.value(features)
            next_value = network.value(self._after(next_obs, memories))
            next_value = next_value.reshape(steps, num_envs, *next_value.shape[1:])
        advantage, returns = self._advantages(rollout, value, next_value)
        if network.moments is not None:
            network.moments.update(obs.to(torch.float32))
        weight = None if rollout.valid is None else trees.flat(rollout.valid).to(torch.float32)
        memory = None if network.core is None else rollout.memory
        return Batch(obs, action, logp, value, advantage, returns, weight, began, memory)

    def _advantages(
        self, rollout: Rollout, value: Tensor, next_value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B,) advantages, of both kinds of reward together, and the values' targets."""
        hp, ends = self.hp, (rollout.terminated, rollout.done)
        if rollout.term is None:
            now = value.reshape(rollout.reward.shape)
            advantage = gae(rollout.reward, now, next_value, *ends, hp.gamma, hp.gae_lambda)
            return advantage.reshape(-1), advantage.reshape(-1) + value
        kinds = (rollout.reward - rollout.term, hp.gamma), (rollout.term, hp.intrinsic_gamma)
        now = value.reshape(*rollout.reward.shape, 2)
        each = [
            gae(reward, now[..., i], next_value[..., i], *ends, gamma, hp.gae_lambda)
            for i, (reward, gamma) in enumerate(kinds)
        ]
        both = torch.stack(each, -1).reshape(-1, 2)
        return both.sum(-1), both + value

    def _next_value(self, rollout: Rollout, value: Tensor) -> Tensor:
        """Values of the true successors, (T, N) or (T, N, 2), given those of the observations."""
        network = self.network
        shape = (*rollout.reward.shape, *value.shape[1:])
        if self.device.type != "cpu":
            next_obs = trees.flat(rollout.next_obs)
            return network.value(network.encode(next_obs)[1]).reshape(shape)
        # A successor is the next observation, except at the end of the rollout and where an
        # episode was cut off; on the CPU it costs nothing to see where that is.
        next_value = value.reshape(shape).roll(-1, 0)
        rows = rollout.truncated.clone()
        rows[-1] = True
        rows = rows.reshape(-1)
        last = trees.rows(trees.flat(rollout.next_obs), rows)
        next_value.view(value.shape)[rows] = network.value(network.encode(last)[1])
        return next_value

    def update(self, batch: Batch) -> Tensor:
        """Optimise on a rollout; returns the mean (5,) of the loss's parts over minibatches."""
        hp = self.hp
        if self._compiles_update:
            return self._compiled_update(batch)
        parts: list[Tensor] = []
        for epoch in range(hp.num_epochs):
            for minibatch in self._minibatches(batch, epoch):
                stats = self._gradient_step(minibatch)
                if hp.target_kl is not None and float(stats[3]) > 1.5 * hp.target_kl:
                    return torch.stack([*parts, stats]).mean(0)
                norm = torch.linalg.vector_norm(self.parameters.grad)
                self.parameters.grad.mul_((hp.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
                self.optimizer.step()
                parts.append(stats)
        return torch.stack(parts).mean(0)

    def _compiled_update(self, batch: Batch) -> Tensor:
        """``update`` as one program: a loop over all minibatches of all epochs."""
        leaves, spec = tree_flatten(batch)
        given = [i for i, leaf in enumerate(leaves) if leaf is not None]

        def step(carry: Tensors, x: Tensors, fixed: Tensors) -> tuple[Tensors, Tensors]:
            lr, *tensors = fixed
            rows: list[Any] = [None] * len(leaves)
            for i, tensor in zip(given, tensors, strict=True):
                rows[i] = tensor[x[0]]
            return self._pure_step(carry, tree_unflatten(rows, spec), lr)

        if self._update_loop is None:
            self._update_loop = Loop(step)
        state = self.optimizer.state[self.parameters]
        if not state:
            state["step"] = torch.zeros((), device=self.device)
            state["exp_avg"] = torch.zeros_like(self.parameters.data)
            state["exp_avg_sq"] = torch.zeros_like(self.parameters.data)
        carry = [self.parameters.data, state["exp_avg"], state["exp_avg_sq"], state["step"]]
        going = torch.ones((), dtype=torch.bool, device=self.device)
        rate = self.optimizer.param_groups[0]["lr"]
        lr = torch.full((), rate, dtype=torch.float64, device=self.device)
        order = torch.cat([self._order(epoch) for epoch in range(self.hp.num_epochs)])
        after, (stats, counted) = self._update_loop(
            [*carry, going],
            [order.reshape(self.hp.num_epochs * self.hp.num_minibatches, -1)],
            [lr, *(leaves[i] for i in given)],
        )
        with torch.no_grad():
            for own, new in zip(carry, after, strict=False):
                own.copy_(new)
        return stats.sum(0) / counted.sum()

    def _pure_step(self, carry: Tensors, minibatch: Batch, lr: Tensor) -> tuple[Tensors, Tensors]:
        """A gradient step from (parameters, Adam's state, whether to go on) to the same."""
        hp = self.hp
        flat, mean, square, count, going = carry
        minibatch, total = self._normalized(minibatch)
        flat = flat.detach().requires_grad_()
        with torch.enable_grad(), self.network.using(flat):
            outputs = self._evaluate_batch(minibatch)
            loss, stats = policy_and_value_loss(*outputs, minibatch, hp, total)
            (grad,) = torch.autograd.grad(loss, flat)
        flat, counted = flat.detach(), going
        norm = torch.linalg.vector_norm(grad)
        grad = grad * (hp.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        after = adam(flat, grad, mean, square, count, lr, hp.adam_eps)
        if hp.target_kl is not None:
            going = going & (stats[3] <= 1.5 * hp.target_kl)
            after = [torch.where(going, a, c) for a, c in zip(after, carry, strict=False)]
        return [*after, going], [torch.where(counted, stats, 0.0), counted]

    def _normalized(self, minibatch: Batch) -> tuple[Batch, Tensor | int]:
        """With standardised advantages if asked, and over how many rows means are taken."""
        advantage, weight = minibatch.advantage, minibatch.weight
        total: Tensor | int = advantage.shape[0] if weight is None else weight.sum()
        if self.hp.normalize_advantage and advantage.shape[0] > 1:
            minibatch = minibatch._replace(advantage=_standardised(advantage, weight))
        return minibatch, total

    def _gradient_step(self, minibatch: Batch) -> Tensor:
        """The gradient of a minibatch into ``parameters.grad``, part by part."""
        hp = self.hp
        minibatch, total = self._normalized(minibatch)
        self.parameters.grad.zero_()
        stats: list[Tensor] = []
        for part in self._parts(minibatch):
            if self._fused is not None:
                x = part
                stats.append(
                    self._fused(
                        x.obs, x.action, x.logp, x.value, x.advantage, x.returns, x.weight,
                        hp.clip_range, hp.clip_range_vf, hp.ent_coef, hp.vf_coef, total,
                    )
                )  # fmt: skip
                continue
            logp, entropy, value = self._evaluate_batch(part)
            loss, numbers = policy_and_value_loss(logp, entropy, value, part, hp, total)
            loss.backward()
            stats.append(numbers)
        return stats[0] if len(stats) == 1 else torch.stack(stats).sum(0)

    def _minibatches(self, batch: Batch, epoch: int) -> list[Batch]:
        """The rollout in random order, cut into minibatches; sequences stay whole."""
        hp, order = self.hp, self._order(epoch)
        if batch.memory is None:
            shuffled = Batch(*(trees.rows(x, order) for x in batch))
            sizes = _sizes(order.shape[0], hp.num_minibatches)
            columns = (trees.split(x, sizes) for x in shuffled)
            return [Batch(*fields) for fields in zip(*columns, strict=True)]
        num_envs = batch.memory.shape[0]
        steps = batch.logp.shape[0] // num_envs
        out = []
        for envs in order.split(_sizes(num_envs, hp.num_minibatches)):
            starts = torch.arange(steps, device=self.device) * num_envs
            index = (starts.unsqueeze(1) + envs).reshape(-1)
            *fields, _ = (trees.rows(x, index) for x in batch._replace(memory=None))
            out.append(Batch(*fields, batch.memory[envs]))
        return out

    def _order(self, epoch: int) -> Tensor:
        """A permutation of the rollout's rows; of its environments, for policies with memory."""
        seed = self._seeds[:1]
        rng = Rng(seed, torch.full_like(seed, self.iteration), epoch, _SHUFFLE_STREAM)
        return rng.permutation(self._rows)[0]

    def _parts(self, batch: Batch) -> list[Batch]:
        count = batch.logp.shape[0]
        if count <= self._part or batch.memory is not None:
            return [batch]
        columns = (trees.split(x, _sizes(count, -(-count // self._part))) for x in batch)
        return [Batch(*fields) for fields in zip(*columns, strict=True)]

    def _evaluate_batch(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        if batch.memory is None:
            return self._evaluate(batch.obs, batch.action)
        network = self.network
        features = self._memories(batch.obs, batch.began, batch.memory)[:, : network.width]
        logp, entropy = self.distribution.logp_entropy(
            network.policy(features, batch.obs), network.log_std, batch.action
        )
        return logp, entropy, network.value(features)

    def _evaluate(self, obs: Obs, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        network = self.network
        for_actor, for_critic = network.encode(obs)
        logp, entropy = self.distribution.logp_entropy(
            network.policy(for_actor, obs), network.log_std, action
        )
        return logp, entropy, network.value(for_critic)


def _fused(device: torch.device) -> bool | None:
    return True if device.type in ("cpu", "cuda") else None


def _standardised(x: Tensor, weight: Tensor | None) -> Tensor:
    """Mean 0 and standard deviation 1 over the rows that count."""
    if weight is None:
        return (x - x.mean()) / (x.std() + 1e-8)
    total = weight.sum()
    centred = x - (x * weight).sum() / total
    var = (centred * centred * weight).sum() / (total - 1.0).clamp(min=1.0)
    return centred / (var.sqrt() + 1e-8)


def _check_compilable(hp: PPOHyperparameters, rows: int) -> None:
    if hp.recurrent:
        raise ValueError(
            f"compile=True, recurrent={hp.recurrent!r}: policies with memory are not compiled; "
            "leave compile out"
        )
    if rows % hp.num_minibatches:
        raise ValueError(
            f"compile=True, num_minibatches={hp.num_minibatches}: expected a divisor of {rows}, "
            "the number of steps in a rollout"
        )


def _sizes(count: int, parts: int) -> list[int]:
    """``count`` rows in ``parts`` nearly equal parts."""
    return [count // parts + (i < count % parts) for i in range(parts)]
