"""OccupancyPenalty: what it costs to go where a base policy does not (Laidlaw et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from ..registration import register_reward
from ..transition import Obs, Transition
from .base import RewardFunction, Spaces, integer, number

DIVERGENCES = ("sqrt_chi2", "chi2", "kl", "tv")
ON = ("state_action", "state")
CLAMP = 10.0
LEAST = 100
"""Rows on either side: fewer give no ratio, and none of them would be trimmed."""
_KEPT = 64  # steps of every environment from which ``update`` learns


@register_reward("occupancy_penalty")
class OccupancyPenalty(RewardFunction):
    """Pays minus the gradient of a divergence between the agent's occupancy and a base policy's.

    A discriminator learns ``d = log(occupancy / base)`` at observations and actions, from the
    agent's steps and stored ones of the base policy. A step costs ``d`` for the KL divergence,
    ``exp(d) - 1`` for chi2, and ``(exp(d) - 1) / sqrt(chi2)`` for its square root, up to a
    constant: the ascent of ``return - coef * divergence``. For total variation it learns where the
    agent comes more often, and a step costs 1 there and -1 elsewhere. Unlike a penalty on action
    distributions it sees where actions lead. It is Markov at any moment, and changes with
    ``update``, which waits for 100 steps.

    ``update`` tells ``chi2`` and ``kl``, or ``tv``; ``base_ratio``, the base's mean of ``exp(d)``,
    which is 1 unless the base never comes where the agent does; ``clamped`` and ``clipped``, the
    shares of the agent's steps where ``d`` is held to ±10 and the cost to ``clip``.

    Args:
        base_obs: (M, ...) observations at which the base policy acted, or a dict of them.
        base_action: (M, ...) its actions; None where only states are compared.
        divergence: "sqrt_chi2", "chi2", "kl" or "tv".
        hidden: widths of the discriminator.
        learning_rate: of Adam.
        num_epochs: passes over the steps at an update.
        centre: subtract the mean cost of the steps that were learned from, so that a penalty is no
            bonus for ending an episode, nor the opposite; None: from when one was seen to
            terminate.
        on: "state_action" or "state", of what occupancies are compared.
        clip: bound of a step's cost; None for none.

    Raises:
        ValueError: for less than 100 rows, from which no ratio can be learned, and for rows of
            another environment.

    Paper: Laidlaw, Singhal, Dragan (2024), "Correlated proxies", section 4.
    """

    def __init__(
        self,
        base_obs: Obs,
        base_action: Tensor | None,
        divergence: str = "sqrt_chi2",
        hidden: tuple[int, ...] = (64, 64),
        learning_rate: float = 3e-3,
        num_epochs: int = 8,
        centre: bool | None = None,
        on: str = "state_action",
        clip: float | None = 1000.0,
    ) -> None:
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence={divergence!r}: expected one of {', '.join(DIVERGENCES)}")
        if on not in ON:
            raise ValueError(f"on={on!r}: expected one of {', '.join(ON)}")
        if base_action is None and on == "state_action":
            raise ValueError("base_action=None: expected the base's actions, or on='state'")
        count = _rows(base_obs)
        if base_action is not None and len(base_action) != count:
            raise ValueError(
                f"base_action: {len(base_action)} rows, expected {count} as in base_obs"
            )
        if count < LEAST:
            name = "base_obs" if base_action is None else "base_action"
            raise ValueError(f"{name}: {count} rows, expected {LEAST} or more")
        self.divergence, self.on = divergence, on
        self._base = (base_obs, base_action)
        self._hidden = tuple(hidden)
        self._rate = number("learning_rate", learning_rate, 0.0)
        self._epochs = integer("num_epochs", num_epochs, 1)
        self.centre = centre
        self.clip = None if clip is None else number("clip", clip, 0.0)
        self._steps: list[tuple[Obs, Tensor]] = []

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Build the discriminator."""
        both = self.on == "state_action"
        self._encode = encoder(spaces.observation, spaces.action if both else None)
        obs, action = self._base
        _check_rows("base_obs", obs, "observation_space", spaces.observation)
        if both:
            _check_rows("base_action", action, "action_space", spaces.action)
        self._base_rows = self._encode(_moved(obs, device), _moved(action, device))
        self._kept = max(_KEPT, -(-LEAST // num_envs))
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
            self._shift = torch.zeros(())
            self._ended = torch.zeros((), dtype=torch.bool)
            self._updates = torch.zeros((), dtype=torch.int64)
        super().bind(num_envs, device, spaces)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As for all; the base's steps may be of another number."""
        if "_base_rows" in state_dict:
            self._base_rows = torch.empty_like(
                state_dict["_base_rows"], device=self._base_rows.device
            )
        super().load_state_dict(state_dict)

    def log_ratio(self, obs: Obs, action: Tensor) -> Tensor:
        """``log(occupancy / base)``, (B,), within ±10."""
        found: Tensor = self.net(self._encode(obs, action)).squeeze(1)
        return found.clamp(-CLAMP, CLAMP)

    def penalty(self, obs: Obs, action: Tensor) -> Tensor:
        """What a step costs, (B,)."""
        cost = self._cost(self.log_ratio(obs, action))
        if self.clip is not None:
            cost = cost.clamp(-self.clip, self.clip)
        return cost - self._shift

    def _cost(self, d: Tensor) -> Tensor:
        """Of log-ratios (B,), neither clipped nor centred."""
        if self.divergence == "kl":
            return d
        if self.divergence == "tv":
            return d.sign()
        if self.divergence == "chi2":
            return d.expm1()
        return d.expm1() * self._scale

    def __call__(self, t: Transition) -> Tensor:
        """Minus the penalty."""
        return -self.penalty(t.obs, t.action)

    def observe(self, t: Transition) -> None:
        """Keep the last steps."""
        self._steps.append((t.obs, t.action))
        self._ended = self._ended | (t.terminated & t.valid).any()
        del self._steps[: -self._kept]

    def update(self) -> dict[str, float | Tensor]:
        """Train on what was kept, and forget it."""
        if sum(_rows(obs) for obs, _ in self._steps) < LEAST:
            return {}
        rows = torch.cat([self._encode(obs, action) for obs, action in self._steps])
        self._steps.clear()
        return self.learn(rows)

    def fit(self, obs: Obs, action: Tensor, terminated: Tensor) -> dict[str, float | Tensor]:
        """Train on the agent's steps (B, ...): for agents that can do so before they are paid."""
        self._ended = self._ended | terminated.any()
        return self.learn(self._encode(obs, action))

    def learn(self, rows: Tensor) -> dict[str, float | Tensor]:
        """Train on encoded steps (B, K): ``mean softplus(-d) + mean_base softplus(d)``.

        For total variation ``mean tanh(-d) + mean_base tanh(d)``, and .01 of the squares.

        Raises:
            ValueError: for less than 100.
        """
        if len(rows) < LEAST:
            raise ValueError(
                f"rows: {len(rows)} of the agent's steps, expected {LEAST} or more (raise its "
                "num_steps)"
            )
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
                    loss = self._loss(ours, theirs)
                    self._optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    self._optimizer.step()
        self.version += 1
        with torch.no_grad():
            return self._measure(rows)

    def _loss(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.divergence == "tv":
            squares = ours.square().mean() + theirs.square().mean()
            return (-ours).tanh().mean() + theirs.tanh().mean() + 0.01 * squares
        loss = nn.functional.softplus(-ours).mean()
        return loss + nn.functional.softplus(theirs).mean()

    def _measure(self, rows: Tensor) -> dict[str, float | Tensor]:
        """Scale and centre of the costs, and what there is to tell, from the agent's steps."""
        raw = self.net(rows).squeeze(1)
        d = raw.clamp(-CLAMP, CLAMP)
        on_base = self.net(self._base_rows).squeeze(1).clamp(-CLAMP, CLAMP)
        found: dict[str, float | Tensor]
        if self.divergence == "tv":
            found = {"tv": (d.sign().mean() - on_base.sign().mean()) / 2.0}
        else:
            trimmed = d.expm1().sort().values
            cut = len(trimmed) // 100
            chi2 = trimmed[cut : len(trimmed) - cut].mean()
            # Where noise makes the estimate negative, chi2's own penalty is the better one.
            self._scale = torch.where(chi2 > 1e-4, chi2.clamp(min=1e-4).rsqrt(), 1.0)
            found = {"chi2": chi2, "kl": d.mean(), "base_ratio": on_base.exp().mean()}
        cost = self._cost(d)
        clipped = cost if self.clip is None else cost.clamp(-self.clip, self.clip)
        centred = self._ended if self.centre is None else torch.full_like(self._ended, self.centre)
        self._shift = torch.where(centred, clipped.mean(), 0.0)
        return {
            **found,
            "clamped": (raw.abs() > CLAMP).to(torch.float32).mean(),
            "clipped": (clipped != cost).to(torch.float32).mean(),
        }


def encoder(
    observation: gym_spaces.Space[Any], action: gym_spaces.Space[Any] | None
) -> Callable[[Obs, Any], Tensor]:
    """From observations and actions to rows (B, K) float32; finite sets become one-hot codes.

    Without an action space it is from observations alone.
    """

    def code(space: gym_spaces.Space[Any], x: Any) -> list[Tensor]:
        if isinstance(space, gym_spaces.Dict):
            return [part for k in sorted(space.spaces) for part in code(space.spaces[k], x[k])]
        if isinstance(space, gym_spaces.Discrete):
            one_hot = nn.functional.one_hot(x.to(torch.int64) - int(space.start), int(space.n))
            return [one_hot.to(torch.float32)]
        return [x.to(torch.float32).reshape(len(x), -1)]

    def encode(obs: Obs, act: Any) -> Tensor:
        acted = [] if action is None else code(action, act)
        return torch.cat([*code(observation, obs), *acted], 1)

    return encode


def _rows(x: Any) -> int:
    return _rows(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def _moved(x: Any, device: torch.device) -> Any:
    if isinstance(x, dict):
        return {k: _moved(v, device) for k, v in x.items()}
    return None if x is None else x.to(device)


def _check_rows(name: str, x: Any, side: str, space: gym_spaces.Space[Any]) -> None:
    """Raise ValueError, naming both sides, unless the rows ``x`` are of ``space``."""
    if isinstance(space, gym_spaces.Dict):
        keys = sorted(x) if isinstance(x, dict) else type(x).__name__
        if keys != sorted(space.spaces):
            raise ValueError(f"{name}: {keys}, and the environment's {side} is {space}")
        for key, part in space.spaces.items():
            _check_rows(f"{name}[{key!r}]", x[key], side, part)
        return
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != space.shape:
        rows = f"rows of {tuple(x.shape[1:])}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: {rows}, and the environment's {side} is {space}")
    if isinstance(space, gym_spaces.Discrete):
        outside = (x < space.start) | (x >= space.start + space.n)
        if bool(outside.any()):
            raise ValueError(
                f"{name}: {x[outside][0].item():g}, and the environment's {side} is {space}"
            )
