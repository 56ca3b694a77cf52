"""The actor-critic, and what its parameters can do as one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from rewardzoo.transition import MASK_KEY, Obs

from .encoders import encoder, has_image
from .layers import MLP


class Table(nn.Module):
    """One row of outputs for each value of a Discrete observation; zero at first."""

    def __init__(self, space: spaces.Discrete, num_outputs: int) -> None:
        super().__init__()
        self.start = int(space.start)
        self.rows = nn.Parameter(torch.zeros(int(space.n), num_outputs))

    def forward(self, obs: Tensor) -> Tensor:
        """(...,) integers to (..., num_outputs)."""
        return functional.embedding(obs - self.start if self.start else obs, self.rows)


class RunningMoments(nn.Module):
    """Running mean and variance of observations, for standardising them (Chan et al. 1979)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.full((), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised and clipped to [-10, 10]."""
        return ((x - self.mean) * torch.rsqrt(self.var + 1e-8)).clamp(-10.0, 10.0)

    def update(self, x: Tensor) -> None:
        """Take in a batch (B, *shape)."""
        mean, var = x.mean(0), x.var(0, unbiased=False)
        total = self.count + x.shape[0]
        delta = mean - self.mean
        m2 = self.var * self.count + var * x.shape[0]
        m2 = m2 + delta * delta * (self.count * x.shape[0] / total)
        self.mean.copy_(self.mean + delta * (x.shape[0] / total))
        self.var.copy_(m2 / total)
        self.count.copy_(total)


class FlatModule(nn.Module):
    """A network whose parameters can be laid into one tensor, and cut from another."""

    def flatten(self) -> nn.Parameter:
        """Lay all parameters, and their gradients, into one tensor each.

        The network's own parameters become views of it, so that clipping and Adam are a handful of
        operations however many layers there are.
        """
        own = list(self.parameters())
        flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in own]))
        flat.grad = torch.zeros_like(flat)
        start = 0
        for p in own:
            end = start + p.numel()
            p.data = flat.data[start:end].view_as(p)
            p.grad = flat.grad[start:end].view_as(p)
            start = end
        return flat

    @contextmanager
    def using(self, flat: Tensor) -> Iterator[None]:
        """Inside, the parameters are cut from ``flat`` (P,), laid out as by ``flatten``."""
        own = [
            (m, name, p)
            for m in self.modules()
            for name, p in m._parameters.items()
            if p is not None
        ]
        try:
            for (module, name, p), piece in zip(
                own, flat.split([p.numel() for _, _, p in own]), strict=True
            ):
                module._parameters[name] = piece.view_as(p)  # type: ignore[assignment]
            self._find_parameters()
            yield
        finally:
            for module, name, p in own:
                module._parameters[name] = p
            self._find_parameters()

    def _find_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, MLP):
                module._find_parameters()


class ActorCritic(FlatModule):
    """A policy and a value function.

    Actor and critic are separate networks; recurrent cores and what reads pictures or NetHack are
    shared by both. With ``hidden=()`` both are linear, which on Discrete observations is a table.

    Args:
        space: the observation space of one environment.
        num_outputs: of the policy head.
        hidden: widths of the hidden layers.
        activation: ``tanh``, ``relu`` or ``silu``.
        recurrent: None, ``gru`` or ``lstm``.
        recurrent_size: width of the recurrent core.
        learned_std: whether there is a state-independent ``log_std`` (continuous actions).
        standardise: whether Box observations are standardised by running moments.
        num_values: value heads; with more than one, values have a last dimension.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        num_outputs: int,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        recurrent: str | None = None,
        recurrent_size: int = 128,
        learned_std: bool = False,
        standardise: bool = False,
        num_values: int = 1,
    ) -> None:
        super().__init__()
        if standardise and not isinstance(space, spaces.Box):
            raise ValueError("normalize_observations=True: expected a Box observation space")
        self.moments = RunningMoments(space.shape) if standardise else None  # type: ignore[arg-type]
        self.core: nn.GRUCell | nn.LSTMCell | None = None
        self.memory_size, self.num_values = 0, num_values
        self.log_std = nn.Parameter(torch.zeros(num_outputs)) if learned_std else None
        if isinstance(space, spaces.Discrete) and not hidden and recurrent is None:
            self.encoder: nn.Module = nn.Identity()
            self.critic_encoder: nn.Module = self.encoder
            self.policy_head: nn.Module = Table(space, num_outputs)
            self.value_head: nn.Module = Table(space, num_values)
            return
        size = hidden[0] if hidden else 64
        self.encoder = encoder(space, size, activation)
        shared = recurrent is not None or has_image(space) or hasattr(self.encoder, "shared")
        self.critic_encoder = self.encoder if shared else encoder(space, size, activation)
        width = int(self.encoder.num_features)  # type: ignore[arg-type]
        if recurrent is not None:
            cell = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[recurrent]
            self.core = cell(width, recurrent_size)
            for name, weight in self.core.named_parameters():
                (nn.init.orthogonal_ if "weight" in name else nn.init.zeros_)(weight)
            self.memory_size = recurrent_size * (2 if recurrent == "lstm" else 1)
            width = recurrent_size
        self.width = width
        self.policy_head = MLP([width, *hidden, num_outputs], activation, 0.01)
        self.value_head = MLP([width, *hidden, num_values], activation, 1.0)

    def encode(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Features for the actor and for the critic (the same tensor where they are shared)."""
        if self.moments is not None:
            obs = self.moments(obs.to(torch.float32))
        features = self.encoder(obs)
        if self.critic_encoder is self.encoder:
            return features, features
        return features, self.critic_encoder(obs)

    def policy(self, features: Tensor, obs: Obs) -> Tensor:
        """The policy's outputs; forbidden actions get the lowest finite logit."""
        out = self.policy_head(features)
        if isinstance(obs, dict) and MASK_KEY in obs:
            out = torch.where(obs[MASK_KEY].to(torch.bool), out, torch.finfo(out.dtype).min)
        return out

    def actor(self, obs: Obs) -> Tensor:
        """The policy's outputs, (..., num_outputs), for a policy without memory."""
        standardised = obs if self.moments is None else self.moments(obs.to(torch.float32))
        return self.policy(self.encoder(standardised), obs)

    def value(self, features: Tensor) -> Tensor:
        """The value, (...,), of the critic's features; (..., num_values) of several heads."""
        value: Tensor = self.value_head(features)
        return value.squeeze(-1) if self.num_values == 1 else value

    def remember(self, features: Tensor, memory: Tensor, began: Tensor) -> Tensor:
        """One step of the recurrent core; rows that began an episode start from zero memory.

        Args:
            features: (N, F).
            memory: (N, memory_size); its first ``width`` numbers are the core's output.
            began: (N,) bool.
        """
        memory = memory * began.logical_not().unsqueeze(-1)
        if isinstance(self.core, nn.LSTMCell):
            h, c = memory.chunk(2, -1)
            return torch.cat(self.core(features, (h.contiguous(), c.contiguous())), -1)
        assert self.core is not None
        return self.core(features, memory)
