"""OccupancyPenalty: what it costs to go where a base policy does not (Laidlaw et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, integer, number

DIVERGENCES = ("sqrt_chi2", "chi2", "kl")
CLAMP = 10.0
_KEPT = 64  # steps of every environment from which ``update`` learns


@register_reward("occupancy_penalty")
class OccupancyPenalty(RewardFunction):
    """Pays minus the gradient of a divergence between the agent's occupancy and a base policy's.

    A discriminator learns ``d = log(occupancy / base)`` at observations and actions, from the
    agent's steps and stored ones of the base policy. A step costs ``d`` for the KL divergence,
    ``exp(d) - 1`` for chi2, and ``(exp(d) - 1) / sqrt(chi2)`` for its square root, up to a
    constant: the ascent of ``return - coef * divergence``. Unlike a penalty on action distributions
    it sees where actions lead. It is Markov at any moment, and changes with ``update``.

    Args:
        base_obs: (M, ...) observations at which the base policy acted, or a dict of them.
        base_action: (M,) its actions.
        divergence: "sqrt_chi2", "chi2" or "kl".
        hidden: widths of the discriminator.
        learning_rate: of Adam.
        num_epochs: passes over the steps at an update.
        centre: subtract the batch's mean, so that a penalty is no bonus for ending an episode.

    Raises:
        ValueError: for less than 100 rows, from which no ratio can be learned.

    Paper: Laidlaw, Singhal, Dragan (2024), "Correlated proxies", section 4.
    """

    def __init__(
        self,
        base_obs: Obs,
        base_action: Tensor,
        divergence: str = "sqrt_chi2",
        hidden: tuple[int, ...] = (64, 64),
        learning_rate: float = 3e-3,
        num_epochs: int = 8,
        centre: bool = False,
    ) -> None:
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence={divergence!r}: expected one of {', '.join(DIVERGENCES)}")
        if len(base_action) < 100:
            raise ValueError(f"base_action: {len(base_action)} rows, expected 100 or more")
        self.divergence = divergence
        self._base = (base_obs, base_action)
        self._hidden = tuple(hidden)
        self._rate = number("learning_rate", learning_rate, 0.0)
        self._epochs = integer("num_epochs", num_epochs, 1)
        self.centre = bool(centre)
        self.rowwise = not centre
        self._steps: list[tuple[Obs, Tensor]] = []

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Build the discriminator."""
        self._encode = encoder(spaces.observation, spaces.action)
        obs, action = self._base
        moved = (
            {k: v.to(device) for k, v in obs.items()} if isinstance(obs, dict) else obs.to(device)
        )
        self._base_rows = self._encode(moved, action.to(device))
        if not hasattr(self, "net"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                widths = (self._base_rows.shape[1], *self._hidden)
                layers: list[nn.Module] = []
                for a, b in zip(widths, widths[1:], strict=False):
                    layers += [nn.Linear(a, b), nn.LeakyReLU()]
                self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
            self._optimizer = torch.optim.Adam(self.net.parameters(), lr=self._rate)
            self._scale = torch.ones(())
            self._updates = torch.zeros((), dtype=torch.int64)
        super().bind(num_envs, device, spaces)

    def log_ratio(self, obs: Obs, action: Tensor) -> Tensor:
        """``log(occupancy / base)``, (B,), within ±10."""
        found: Tensor = self.net(self._encode(obs, action)).squeeze(1)
        return found.clamp(-CLAMP, CLAMP)

    def penalty(self, obs: Obs, action: Tensor) -> Tensor:
        """What a step costs, (B,)."""
        d = self.log_ratio(obs, action)
        if self.divergence == "kl":
            return d
        if self.divergence == "chi2":
            return d.expm1()
        return d.expm1() * self._scale

    def __call__(self, t: Transition) -> Tensor:
        """Minus the penalty."""
        paid = -self.penalty(t.obs, t.action)
        return paid - paid.mean() if self.centre else paid

    def observe(self, t: Transition) -> None:
        """Keep the last steps."""
        self._steps.append((t.obs, t.action))
        del self._steps[:-_KEPT]

    def update(self) -> dict[str, float | Tensor]:
        """Train on what was kept, and forget it."""
        if not self._steps:
            return {}
        rows = torch.cat([self._encode(obs, action) for obs, action in self._steps])
        self._steps.clear()
        return self.learn(rows)

    def fit(self, obs: Obs, action: Tensor) -> dict[str, float | Tensor]:
        """Train on the agent's steps (B, ...): for agents that can do so before they are paid."""
        return self.learn(self._encode(obs, action))

    def learn(self, rows: Tensor) -> dict[str, float | Tensor]:
        """Train on encoded steps (B, K): ``mean softplus(-d) + mean_base softplus(d)``."""
        generator = torch.Generator().manual_seed(int(self._updates))
        self._updates = self._updates + 1
        size = min(len(rows), 1024)
        with torch.enable_grad():
            for _ in range(self._epochs):
                order = torch.randperm(len(rows), generator=generator)
                for part in torch.split(order, size):
                    if len(part) < 100 < len(rows):
                        continue
                    drawn = torch.randint(
                        len(self._base_rows), (len(part),), generator=generator
                    ).to(rows.device)
                    ours = self.net(rows[part.to(rows.device)])
                    theirs = self.net(self._base_rows[drawn])
                    loss = nn.functional.softplus(-ours).mean()
                    loss = loss + nn.functional.softplus(theirs).mean()
                    self._optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    self._optimizer.step()
        with torch.no_grad():
            d = self.net(rows).squeeze(1).clamp(-CLAMP, CLAMP)
            on_base = self.net(self._base_rows).squeeze(1).clamp(-CLAMP, CLAMP)
            trimmed = d.expm1().sort().values
            cut = len(trimmed) // 100
            chi2 = trimmed[cut : len(trimmed) - cut].mean()
            # Where noise makes the estimate negative, chi2's own penalty is the better one.
            self._scale = torch.where(chi2 > 1e-4, chi2.clamp(min=1e-4).rsqrt(), 1.0)
        self.version += 1
        return {"chi2": chi2, "kl": d.mean(), "base_ratio": on_base.exp().mean()}


def encoder(
    observation: gym_spaces.Space[Any], action: gym_spaces.Space[Any]
) -> Callable[[Obs, Tensor], Tensor]:
    """From observations and actions to rows (B, K) float32; finite sets become one-hot codes."""

    def code(space: gym_spaces.Space[Any], x: Any) -> list[Tensor]:
        if isinstance(space, gym_spaces.Dict):
            return [part for k in sorted(space.spaces) for part in code(space.spaces[k], x[k])]
        if isinstance(space, gym_spaces.Discrete):
            one_hot = nn.functional.one_hot(x.to(torch.int64) - int(space.start), int(space.n))
            return [one_hot.to(torch.float32)]
        return [x.to(torch.float32).reshape(len(x), -1)]

    def encode(obs: Obs, act: Tensor) -> Tensor:
        return torch.cat([*code(observation, obs), *code(action, act)], 1)

    return encode
