"""Action distributions as pure functions of a network's output and of given noise.

Noise is drawn ahead for a whole rollout (``rewardzoo.random``), so sampling inside the loop is one
addition and one argmax.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rewardzoo.random import Rng

_LOG_2PI = math.log(2 * math.pi)


class Categorical:
    """One or several independent discrete actions.

    Args:
        nvec: the number of choices of each action component.
        start: the first action of each component.
        single: whether actions are (N,) (Discrete) or (N, len(nvec)) (MultiDiscrete).
    """

    def __init__(self, nvec: tuple[int, ...], start: tuple[int, ...], single: bool) -> None:
        self.nvec, self.start, self.single = nvec, start, single
        self.num_outputs = sum(nvec)
        self.learned_std = False

    def noise(self, rng: Rng, steps: int) -> Tensor:
        """Gumbel noise (steps, N, num_outputs)."""
        return rng.gumbel(steps, self.num_outputs).transpose(0, 1)

    def sample(self, logits: Tensor, log_std: Tensor | None, noise: Tensor) -> Tensor:
        """Actions by the Gumbel-max trick."""
        return self.mode(logits + noise, log_std)

    def mode(self, logits: Tensor, log_std: Tensor | None) -> Tensor:
        """The most likely actions."""
        if self.single:
            return logits.argmax(-1)
        return torch.stack([part.argmax(-1) for part in logits.split(self.nvec, -1)], -1)

    def logp_entropy(
        self, logits: Tensor, log_std: Tensor | None, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of ``action`` and entropy, both (...,)."""
        parts = [logits] if self.single else logits.split(self.nvec, -1)
        actions = [action] if self.single else action.unbind(-1)
        logp: Any = 0.0
        entropy: Any = 0.0
        for part, chosen in zip(parts, actions, strict=True):
            log_probs = part.log_softmax(-1)
            logp = logp + log_probs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
            # A masked logit is the finite minimum: its probability is 0 and 0 * finite is 0.
            entropy = entropy - (log_probs.exp() * log_probs).sum(-1)
        return logp, entropy

    def to_env(self, action: Tensor) -> Tensor:
        """What the environment's action space expects."""
        if not any(self.start):
            return action
        return action + (self.start[0] if self.single else action.new_tensor(self.start))


class Gaussian:
    """A diagonal normal distribution whose standard deviation does not depend on the state.

    Args:
        space: the action space; actions are clipped to its bounds on their way out, only there.
        device: where its bounds live.
    """

    def __init__(self, space: spaces.Box, device: torch.device) -> None:
        self.shape = space.shape
        self.num_outputs = math.prod(space.shape)
        self.learned_std = True
        self.low = torch.tensor(space.low, device=device)
        self.high = torch.tensor(space.high, device=device)

    def noise(self, rng: Rng, steps: int) -> Tensor:
        """Normal noise (steps, N, num_outputs)."""
        return rng.normal(steps, self.num_outputs).transpose(0, 1)

    def sample(self, mean: Tensor, log_std: Tensor | None, noise: Tensor) -> Tensor:
        """Actions by reparametrisation."""
        assert log_std is not None
        return mean + log_std.exp() * noise

    def mode(self, mean: Tensor, log_std: Tensor | None) -> Tensor:
        """The mean."""
        return mean

    def logp_entropy(
        self, mean: Tensor, log_std: Tensor | None, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-density of ``action`` and entropy, both (...,)."""
        assert log_std is not None
        z = (action - mean) * (-log_std).exp()
        logp = (-0.5 * (z * z + _LOG_2PI) - log_std).sum(-1)
        entropy = (log_std + 0.5 * (1.0 + _LOG_2PI)).sum(-1)
        return logp, entropy.expand_as(logp)

    def to_env(self, action: Tensor) -> Tensor:
        """Clipped to the space and in its shape."""
        action = action.reshape(-1, *self.shape)
        return torch.minimum(torch.maximum(action, self.low), self.high)


def distribution(space: spaces.Space[Any], device: torch.device) -> Categorical | Gaussian:
    """The distribution for an action space.

    Raises:
        ValueError: for spaces other than Discrete, MultiDiscrete, MultiBinary and float Box.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical((int(space.n),), (int(space.start),), single=True)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        nvec, start = tuple(map(int, space.nvec)), tuple(map(int, space.start))
        return Categorical(nvec, start, single=False)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Categorical((2,) * space.shape[0], (0,) * space.shape[0], single=False)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return Gaussian(space, device)
    raise ValueError(
        f"action_space={space}: expected Discrete, flat MultiDiscrete or MultiBinary, or float Box"
    )
