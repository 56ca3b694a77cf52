"""Continuous control: bounded actions, and the networks of off-policy actor-critic methods."""

from __future__ import annotations

import math

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from rewardzoo.random import Rng

from .networks import FlatModule, RunningMoments

INITIALISATIONS = ("uniform", "orthogonal")


class BoxActions:
    """Actions in [-1, 1]^A, as policies and critics know them, and the environment's Box.

    Args:
        space: a bounded float Box.
        device: where its bounds live.

    Raises:
        ValueError: for another space.
    """

    def __init__(self, space: spaces.Space, device: torch.device) -> None:
        if not (isinstance(space, spaces.Box) and space.dtype.kind == "f" and space.is_bounded()):
            raise ValueError(
                f"action_space={space}: expected a bounded float Box; PPO takes others"
            )
        self.shape = space.shape
        self.num_outputs = math.prod(space.shape)
        low = torch.tensor(space.low, device=device).reshape(-1)
        high = torch.tensor(space.high, device=device).reshape(-1)
        self.low, self.high = low, high
        self.centre, self.half = (high + low) / 2.0, (high - low) / 2.0

    def noise(self, rng: Rng, steps: int) -> Tensor:
        """Normal noise (steps, N, A)."""
        return rng.normal(steps, self.num_outputs).transpose(0, 1)

    def to_env(self, action: Tensor) -> Tensor:
        """(..., A) in [-1, 1] to (..., *shape) in the Box, which rounding never leaves."""
        action = self.centre + self.half * action
        action = torch.minimum(torch.maximum(action, self.low), self.high)
        return action.reshape(*action.shape[:-1], *self.shape)

    def from_env(self, action: Tensor) -> Tensor:
        """(..., *shape) in the Box to (..., A) in [-1, 1]."""
        return (action.reshape(-1, self.num_outputs) - self.centre) / self.half


def uniform(noise: Tensor) -> Tensor:
    """Standard normal numbers as uniform ones in [-1, 1]."""
    return torch.erf(noise * math.sqrt(0.5))


class Stack(nn.Module):
    """K multilayer perceptrons side by side, each layer of all of them one multiplication.

    Args:
        count: K.
        sizes: widths, from the input's to the output's.
        layer_norm: normalise every hidden layer before its ReLU (Ba et al. 2016).
        initialisation: "uniform" within 1 / sqrt(inputs), torch's and the TD3 authors'; or
            "orthogonal" with gain sqrt(2), .01 at the output.
    """

    def __init__(
        self,
        count: int,
        sizes: list[int],
        layer_norm: bool = False,
        initialisation: str = "uniform",
    ) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
            weight, bias = torch.zeros(count, a, b), torch.zeros(count, 1, b)
            if initialisation == "uniform":
                nn.init.uniform_(weight, -(a**-0.5), a**-0.5)
                nn.init.uniform_(bias, -(a**-0.5), a**-0.5)
            else:
                for one in weight:
                    nn.init.orthogonal_(one, 0.01 if i == len(sizes) - 2 else math.sqrt(2))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, x: Tensor, count: int | None = None) -> Tensor:
        """(B, sizes[0]) to (K, B, sizes[-1]); only the first ``count`` of the K, if given."""
        weights, biases = list(self.weights), list(self.biases)
        if count is not None:
            weights, biases = [w[:count] for w in weights], [b[:count] for b in biases]
        y = x.unsqueeze(0).expand(weights[0].shape[0], -1, -1)
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            y = torch.baddbmm(bias, y, weight)
            if i < last:
                y = functional.layer_norm(y, y.shape[-1:]) if self.layer_norm else y
                y = functional.relu(y)
        return y


class Actor(FlatModule):
    """Observations to the numbers that actions are made of.

    Args:
        num_inputs: D.
        num_outputs: of the last layer.
        hidden: widths of the hidden layers.
        layer_norm: see ``Stack``.
        initialisation: see ``Stack``.
        scale: whether a number ``scale`` is learned with it: SAC's logarithm of the temperature.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        hidden: tuple[int, ...],
        layer_norm: bool,
        initialisation: str,
        scale: bool,
    ) -> None:
        super().__init__()
        self.stack = Stack(1, [num_inputs, *hidden, num_outputs], layer_norm, initialisation)
        self.scale = nn.Parameter(torch.zeros(1)) if scale else None

    def forward(self, obs: Tensor) -> Tensor:
        """(B, D) to (B, num_outputs)."""
        return self.stack(obs).squeeze(0)


class TwinCritic(FlatModule):
    """Two action-value functions (Fujimoto et al. 2018).

    Args:
        num_inputs: D + A.
        hidden: widths of the hidden layers.
        layer_norm: see ``Stack``.
        initialisation: see ``Stack``.
    """

    def __init__(
        self, num_inputs: int, hidden: tuple[int, ...], layer_norm: bool, initialisation: str
    ) -> None:
        super().__init__()
        self.stack = Stack(2, [num_inputs, *hidden, 1], layer_norm, initialisation)

    def forward(self, obs: Tensor, action: Tensor, count: int | None = None) -> Tensor:
        """(B, D) and (B, A) to (2, B), or (count, B)."""
        return self.stack(torch.cat([obs, action], -1), count).squeeze(-1)


class ActorTwinCritic(nn.Module):
    """An actor, two critics, and what both see of an observation.

    Args:
        num_obs: D, numbers of an observation.
        num_actions: A.
        num_outputs: of the actor.
        actor_hidden: widths of its hidden layers.
        critic_hidden: widths of the critics' hidden layers.
        layer_norm: see ``Stack``.
        initialisation: see ``Stack``.
        clip: observations are standardised by running moments and clipped to this; None leaves
            them as they are.
        absorbing: observations and actions have one more column, which marks absorbing states.
        scale: see ``Actor``.
    """

    memory_size = 0

    def __init__(
        self,
        num_obs: int,
        num_actions: int,
        num_outputs: int,
        actor_hidden: tuple[int, ...],
        critic_hidden: tuple[int, ...],
        layer_norm: bool = False,
        initialisation: str = "uniform",
        clip: float | None = None,
        absorbing: bool = False,
        scale: bool = False,
    ) -> None:
        super().__init__()
        self.num_obs, self.clip, self.absorbing = num_obs, clip, absorbing
        extra = int(absorbing)
        self.moments = RunningMoments((num_obs,)) if clip is not None else None
        self.actor = Actor(
            num_obs + extra, num_outputs, actor_hidden, layer_norm, initialisation, scale
        )
        self.critic = TwinCritic(
            num_obs + num_actions + 2 * extra, critic_hidden, layer_norm, initialisation
        )

    def see(self, obs: Tensor) -> Tensor:
        """(B, D), or with the flag of absorbing states (B, D + 1), to what the networks take."""
        if self.moments is None:
            return obs
        # Absorbing rows are zeros: as good a point as any, and the flag tells them apart.
        moments, plain = self.moments, obs[..., : self.num_obs]
        z = (plain - moments.mean) * torch.rsqrt(moments.var + 1e-8)
        z = z.clamp(-self.clip, self.clip)
        return torch.cat([z, obs[..., self.num_obs :]], -1) if self.absorbing else z

    def flagged(self, obs: Tensor, action: Tensor) -> Tensor:
        """The policy's action (B, A) with its flag, (B, A + 1); (0, ..., 0, 1) where absorbed."""
        if not self.absorbing:
            return action
        flag = obs[..., -1:]
        return torch.cat([action * (1.0 - flag), flag], -1)
