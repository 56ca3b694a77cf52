"""Encoders for Gymnasium's observation spaces, and the actor-critic built on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from rewardzoo.transition import Obs

from . import nethack

MASK_KEY = "action_mask"


class _SigmoidTanh(torch.autograd.Function):
    """``tanh(x) = 2 * sigmoid(2 x) - 1``: on the CPU a third of the time of ``torch.tanh``.

    The hyperbolic tangent is what a small policy spends most of its time on. The absolute error
    is below 2e-7.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(x + x).mul_(2.0).sub_(1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad[0], y)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent by whichever way is fastest on the tensor's device."""
    if x.device.type != "cpu":
        return torch.tanh(x)
    if torch.is_grad_enabled():
        return _SigmoidTanh.apply(x)  # type: ignore[no-any-return]
    return torch.sigmoid(x + x).mul_(2.0).sub_(1.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": tanh,
    "relu": functional.relu,
    "silu": functional.silu,
}


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> nn.Linear | nn.Conv2d:
    """Orthogonal weights and zero biases, in place."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Linear layers with an activation between them, orthogonally initialised.

    Args:
        sizes: widths, from the input's to the output's.
        activation: a key of ``ACTIVATIONS``.
        last_gain: gain of the last layer's weights.
    """

    def __init__(self, sizes: list[int], activation: str, last_gain: float) -> None:
        super().__init__()
        gains = [math.sqrt(2)] * (len(sizes) - 2) + [last_gain]
        pairs = zip(sizes, sizes[1:], gains, strict=False)
        self.layers = nn.ModuleList(orthogonal(nn.Linear(a, b), gain) for a, b, gain in pairs)
        self.activation = ACTIVATIONS[activation]
        self._find_parameters()

    def _find_parameters(self) -> None:
        # Looking modules up at every call costs more than a small layer's arithmetic.
        self._parameters_by_layer = [(layer.weight, layer.bias) for layer in self.layers]

    def _apply(self, fn: Any, recurse: bool = True) -> MLP:
        # A move to another device may replace the parameters.
        super()._apply(fn, recurse)
        self._find_parameters()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) to (..., sizes[-1])."""
        *inner, last = self._parameters_by_layer
        for weight, bias in inner:
            x = self.activation(functional.linear(x, weight, bias))
        return functional.linear(x, *last)


class Flat(nn.Module):
    """Box of any shape to a vector."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.ndim = len(space.shape)
        self.num_features = math.prod(space.shape)

    def forward(self, obs: Tensor) -> Tensor:
        """(..., *shape) to (..., num_features) float32."""
        obs = obs if obs.dtype == torch.float32 else obs.to(torch.float32)
        return obs if self.ndim == 1 else obs.reshape(*obs.shape[: obs.ndim - self.ndim], -1)


class Index(nn.Module):
    """Discrete, MultiDiscrete or MultiBinary to the sum of one learned vector a component.

    The same as a linear layer on one-hot vectors, and much faster.
    """

    def __init__(self, nvec: list[int], start: list[int], size: int, activation: str) -> None:
        super().__init__()
        self.single = len(nvec) == 1
        self.table = nn.Embedding(sum(nvec), size)
        nn.init.orthogonal_(self.table.weight, math.sqrt(2))
        first = [sum(nvec[:i]) - start[i] for i in range(len(nvec))]
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.offset = first[0]
        self.activation = ACTIVATIONS[activation]
        self.num_features = size

    def forward(self, obs: Tensor) -> Tensor:
        """(...,) or (..., K) integers to (..., num_features)."""
        if self.single and self.offset == 0:
            return self.activation(self.table(obs))
        index = obs.unsqueeze(-1) if self.single else obs
        return self.activation(self.table(index.to(torch.int64) + self.first).sum(-2))


class Table(nn.Module):
    """One row of outputs for each value of a Discrete observation; zero at first."""

    def __init__(self, space: spaces.Discrete, num_outputs: int) -> None:
        super().__init__()
        self.start = int(space.start)
        self.rows = nn.Parameter(torch.zeros(int(space.n), num_outputs))

    def forward(self, obs: Tensor) -> Tensor:
        """(...,) integers to (..., num_outputs)."""
        return functional.embedding(obs - self.start if self.start else obs, self.rows)


class Image(nn.Module):
    """A uint8 picture, channels first or last, to 512 features (Mnih et al. 2015)."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.channels_last = space.shape[-1] <= 4 < space.shape[0]
        channels = space.shape[-1] if self.channels_last else space.shape[0]
        height, width = space.shape[:2] if self.channels_last else space.shape[1:]
        if min(height, width) < 36:
            raise ValueError(
                f"observation {space.shape}: the image encoder needs at least 36 x 36 pixels; "
                "flatten smaller pictures into a float32 Box"
            )
        self.convolutions = nn.Sequential(
            orthogonal(nn.Conv2d(channels, 32, 8, 4), math.sqrt(2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(32, 64, 4, 2), math.sqrt(2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(64, 64, 3, 1), math.sqrt(2)),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.head = nn.Sequential(orthogonal(nn.Linear(flat, 512), math.sqrt(2)), nn.ReLU())
        self.num_features = 512

    def forward(self, obs: Tensor) -> Tensor:
        """(..., H, W, C) or (..., C, H, W) uint8 to (..., 512)."""
        lead = obs.shape[:-3]
        obs = obs.reshape(-1, *obs.shape[-3:])
        if self.channels_last:
            obs = obs.permute(0, 3, 1, 2)
        return self.head(self.convolutions(obs.to(torch.float32) / 255.0)).reshape(*lead, 512)


class Keys(nn.Module):
    """A Dict: the features of its entries side by side; the action mask is no feature."""

    def __init__(self, space: spaces.Dict, size: int, activation: str) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {k: encoder(s, size, activation) for k, s in space.items() if k != MASK_KEY}
        )
        self.num_features = sum(int(p.num_features) for p in self.parts.values())  # type: ignore[arg-type]

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """A dict of (..., shape) to (..., num_features)."""
        return torch.cat([part(obs[k]) for k, part in self.parts.items()], -1)


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether the image encoder takes this space: a uint8 Box with three axes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype.kind == "u"


def has_image(space: spaces.Space[Any]) -> bool:
    """Whether there is a picture anywhere in this space."""
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else ()
    return is_image(space) or any(has_image(s) for s in inner)


def encoder(space: spaces.Space[Any], size: int, activation: str) -> nn.Module:
    """The encoder of an observation space.

    Raises:
        ValueError: for a space that none takes.
    """
    if is_image(space):
        return Image(space)  # type: ignore[arg-type]
    if isinstance(space, spaces.Box):
        return Flat(space)
    if isinstance(space, spaces.Discrete):
        return Index([int(space.n)], [int(space.start)], size, activation)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return Index(list(map(int, space.nvec)), list(map(int, space.start)), size, activation)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Index([2] * space.shape[0], [0] * space.shape[0], size, activation)
    if isinstance(space, spaces.Dict):
        kind = nethack.NetHackEncoder if nethack.takes(space) else Keys
        return kind(space, size, activation)
    raise ValueError(
        f"observation_space={space}: expected Box, Discrete, flat MultiDiscrete or MultiBinary, "
        "or a Dict of them"
    )


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
