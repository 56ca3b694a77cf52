"""Random expert distillation (Wang et al. 2019): imitation without an adversary."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..registration import register_reward
from ..transition import Transition
from .adversarial import expert_rows
from .base import RewardFunction, Spaces, integer, number
from .row_memory import Encoding, Moments

_USUAL = 0.95  # share of the demonstrations' rows that are paid at least ``paid``


@register_reward("red")
class RandomExpertDistillation(RewardFunction):
    """Pays ``exp(-sigma ||h(s, a) - g(s, a)||^2)``: 1 where an expert was, 0 far from there.

    g is a random network that never learns, h one that was fitted to it on the expert's rows: the
    two agree there and, away from there, nothing made them. The reward is fixed once it is bound,
    so nothing has to be played off against anything, and it cannot sharpen where the agent comes
    close. Observations are standardised by the demonstrations' moments, bounded actions scaled to
    [-1, 1].

    Args:
        demos: demonstrations: a name or path for ``load_demonstrations``, or what it returns.
        paid: sigma is such that 95 % of the demonstrations' rows are paid at least this, in (0, 1).
        hidden: widths of both networks' hidden layers.
        features: outputs of both.
        steps: Adam steps of h, when it is bound (some ten seconds on a CPU); with fewer it pays
            rows far from the demonstrations too much.
        batch_size: rows of a step.
        learning_rate: of the steps.
        seed: of networks and minibatches.
        time_limit: see ``AdversarialReward``.

    Example:
        >>> import gymnasium, rewardzoo
        >>> from rewardzoo.rewards import VectorRewardWrapper
        >>> envs = gymnasium.make_vec("rewardzoo/InvertedPendulum-v0", num_envs=2)
        >>> fn = RandomExpertDistillation("InvertedPendulum", steps=200)
        >>> _ = VectorRewardWrapper(envs, fn).reset(seed=0)
        >>> float(fn.sigma) > 0.0
        True

    Paper: Wang, Ciliberto, Amadori, Demiris (2019), "Random expert distillation: imitation learning
    via expert policy support estimation".
    """

    def __init__(
        self,
        demos: Any,
        paid: float = 0.9,
        hidden: tuple[int, ...] = (100, 100),
        features: int = 32,
        steps: int = 10_000,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        seed: int = 0,
        time_limit: int | None = None,
    ) -> None:
        if not 0.0 < paid < 1.0:
            raise ValueError(f"paid={paid}: expected 0 < paid < 1")
        self.demos, self.paid, self.time_limit = demos, paid, time_limit
        self.hidden = tuple(integer("hidden", width, 1) for width in hidden)
        self.features, self.steps = integer("features", features, 1), integer("steps", steps, 1)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.learning_rate = number("learning_rate", learning_rate, 0.0)
        self.seed = seed

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Read the demonstrations for these spaces, and distil the random network on them."""
        self._observe = Encoding(spaces.observation, "observation_space")
        self._act = Encoding(spaces.action, "action_space", bounded=True)
        demos = expert_rows(self.demos, spaces, self.batch_size, self.time_limit)
        moments = Moments(self._observe.width)
        moments.add(self._observe(demos.obs), demos.valid)
        self._mean, self._scale = moments.standard()
        rows = self._rows(demos)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.target, self.distilled = (self._network(rows.shape[1]) for _ in range(2))
            self._distil(rows)
        self.sigma = -math.log(self.paid) / self.error(rows).quantile(_USUAL).clamp(min=1e-12)
        for part in (self._observe, self._act):
            part.to(device)
        super().bind(num_envs, device, spaces)

    def _network(self, width: int) -> nn.Module:
        layers: list[nn.Module] = []
        for size in self.hidden:
            layers += [nn.Linear(width, size), nn.LeakyReLU(0.1)]
            width = size
        network = nn.Sequential(*layers, nn.Linear(width, self.features))
        for part in network:
            if isinstance(part, nn.Linear):
                nn.init.orthogonal_(part.weight, math.sqrt(2.0))
        return network.requires_grad_(False)

    def _distil(self, rows: Tensor) -> None:
        with torch.no_grad():
            wanted = self.target(rows)
        self.distilled.requires_grad_(True)
        optimizer = torch.optim.Adam(self.distilled.parameters(), self.learning_rate)
        with torch.enable_grad():
            for index in torch.randint(len(rows), (self.steps, self.batch_size)):
                loss = functional.mse_loss(self.distilled(rows[index]), wanted[index])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.distilled.requires_grad_(False)

    def _rows(self, t: Transition) -> Tensor:
        """(B, D), as the networks read them."""
        state = (self._observe(t.obs) - self._mean) * self._scale
        return torch.cat([state, self._act(t.action)], 1)

    def error(self, rows: Tensor) -> Tensor:
        """``||h - g||^2`` of rows (B, D), (B,)."""
        error: Tensor = (self.distilled(rows) - self.target(rows)).square().sum(-1)
        return error

    def __call__(self, t: Transition) -> Tensor:
        """How near to the expert's rows each row is, (N,) float32 in [0, 1]."""
        return (-self.sigma * self.error(self._rows(t))).exp()
