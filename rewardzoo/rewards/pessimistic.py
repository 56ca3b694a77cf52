"""PessimisticPrecondition: less reward where the dynamics amplify (Blondé et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..random import Rng
from ..registration import register_reward
from ..transition import Transition
from .base import RewardFunction, Spaces, integer, number
from .compose import Unary
from .forward_model import ForwardModel
from .lipschitz import excess, jacobian
from .row_memory import Encoding, Moments, RowMemory

_STREAM = 6
_WINDOW = 10  # updates that the deviation is taken over

Dynamics = Callable[[Tensor], Tensor]


@register_reward("pessimistic")
class PessimisticPrecondition(Unary):
    """Pays ``eta * inner``, ``eta = max(floor, exp(-excess / deviation))`` in [floor, 1].

    ``excess = max(0, ||J_g(s, a)|| - k)^2`` of a model g of the dynamics, row by row: what is done
    where a small error grows is paid less. The deviation is that of the excess over the last
    updates. Without ``dynamics``, g is learned from what the agent does (two layers of 100, squared
    error, standardised); the norm is Frobenius's.

    Works on any reward function. Preconditioning a reward that can be negative makes penalties
    smaller there too.

    Args:
        inner: the reward function.
        dynamics: (B, S + A) to (B, S), differentiable, used as it is; None: learned.
        k: amplification that costs nothing.
        floor: the least share that is paid, in (0, 1].
        batch_size: rows of a gradient step of the model.
        updates_per_step: its gradient steps an environment step.
        memory: steps that are remembered for it.
        learning_rate: step size of its Adam.
        seed: of the model and its minibatches.

    Paper: Blondé, Strasser, Kalousis (2022), "Lipschitzness is all you need to tame off-policy
    generative adversarial imitation learning"; there one eta is shared by a whole batch, and the
    gradient is that of the sum of the outputs.
    """

    def __init__(
        self,
        inner: RewardFunction,
        dynamics: Dynamics | None = None,
        k: float = 9.0,
        floor: float = 0.7,
        batch_size: int = 64,
        updates_per_step: float = 0.1,
        memory: int = 10_000,
        learning_rate: float = 2.5e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        self.dynamics = dynamics
        self.k, self.floor = number("k", k, 0.0), number("floor", floor, 0.0, 1.0)
        if not floor > 0.0:
            raise ValueError(f"floor={floor}: expected a number in (0, 1]")
        self.batch_size = integer("batch_size", batch_size, 1)
        self.updates_per_step = number("updates_per_step", updates_per_step, 0.0)
        self.capacity = integer("memory", memory, 1)
        self.learning_rate, self.seed = number("learning_rate", learning_rate, 0.0), seed

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Make the model and its memory."""
        if self.capacity < num_envs:
            raise ValueError(f"memory={self.capacity}: expected at least {num_envs}, one step's")
        self._observe = Encoding(spaces.observation, "observation_space")
        self._act = Encoding(spaces.action, "action_space", bounded=True)
        states, inputs = self._observe.width, self._observe.width + self._act.width
        self._memory = RowMemory(self.capacity, inputs + states)
        self._moments = Moments(states)
        self.model = ForwardModel(states, inputs, self.seed, self.learning_rate)
        self.optimizer = self.model.optimizer
        self._spread = torch.full((_WINDOW,), torch.nan)  # of the excess, at the last updates
        self._mean, self._scale = torch.zeros(states), torch.ones(states)
        self._fresh = 0
        super().bind(num_envs, device, spaces)
        for part in (self._observe, self._act):
            part.to(device)

    def __call__(self, t: Transition) -> Tensor:
        """The inner reward, less where the dynamics amplify."""
        return self.eta(t) * self.inner(t)

    def relabel(self, t: Transition) -> Tensor:
        """The inner relabelled reward, less where the dynamics amplify."""
        return self.eta(t) * self.inner.relabel(t)

    def eta(self, t: Transition) -> Tensor:
        """What share is paid, (N,) in [floor, 1]; 1 until the deviation is known."""
        scale = self._spread.nanmean().nan_to_num(torch.inf).clamp(min=1e-8)
        return (-self._excess(self._inputs(t)) / scale).exp().clamp(min=self.floor)

    def observe(self, t: Transition) -> None:
        """Remember where steps led."""
        super().observe(t)
        following = self._observe(t.next_obs)
        self._memory.add(torch.cat([self._raw(t), following], 1), t.valid)
        self._moments.add(following, t.valid)
        self._fresh += t.valid.shape[0]

    def update(self) -> dict[str, float | Tensor]:
        """Fit the model to the memory, renew the deviation; the inner function's own update too."""
        metrics = super().update()
        if not self._fresh:
            return metrics
        steps, self._fresh = max(1, round(self._fresh * self.updates_per_step)), 0
        rng = Rng(torch.full((1,), self.seed, device=self._mean.device),
                  torch.full((1,), self.version, device=self._mean.device), 0, _STREAM)  # fmt: skip
        rows = self._memory.at(rng.uniform(steps, self.batch_size)[0])
        width = len(self._mean)
        if self.dynamics is None:
            self._mean, self._scale = self._moments.standard()
            following = (rows[..., -width:] - self._mean) * self._scale
            metrics["model_error"] = self.model.fit(self._standard(rows[..., :-width]), following)
        excess = self._excess(self._standard(rows[-1, :, :-width]))
        deviation = excess.std() if len(excess) > 1 else excess.mean()
        self._spread = torch.cat([self._spread[1:], deviation.unsqueeze(0)])
        self.version += 1
        scale = self._spread.nanmean().clamp(min=1e-8)
        metrics["eta"] = (-excess / scale).exp().clamp(min=self.floor).mean()
        return metrics

    def _raw(self, t: Transition) -> Tensor:
        return torch.cat([self._observe(t.obs), self._act(t.action)], 1)

    def _inputs(self, t: Transition) -> Tensor:
        return self._standard(self._raw(t))

    def _standard(self, inputs: Tensor) -> Tensor:
        width = len(self._mean)
        state = (inputs[..., :width] - self._mean) * self._scale
        return torch.cat([state, inputs[..., width:]], -1)

    def _excess(self, inputs: Tensor) -> Tensor:
        if self.dynamics is not None:
            norm = torch.linalg.matrix_norm(jacobian(self.dynamics, inputs))
        else:
            norm = self.model.jacobian_norm(inputs)
        return excess(norm, self.k).square()
