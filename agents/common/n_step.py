"""NStepReplay: stored transitions, sampled as windows of n steps of one environment.

Every row knows where the next step of its episode lies (``link``), so windows are found by
following links: whatever the number of environments, the autoreset mode, and where the ring has
been overwritten (a row's successor is younger than the row, so it is never overwritten first).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewardzoo.transition import Transition

from .collector import Rollout

_NONE = -1  # no next step: the episode ended, or it is not stored yet


class Rows(NamedTuple):
    """C stored transitions, the raw ones: no reward is summed and nothing is normalised."""

    obs: Tensor  # (C, D) float32
    action: Tensor  # (C, A) float32, as the policy chose it
    reward: Tensor  # (C,) float32
    next_obs: Tensor  # (C, D) float32, the true successors
    terminated: Tensor  # (C,) bool
    truncated: Tensor  # (C,) bool
    link: Tensor  # (C,) int64, the row of the next step


class Windows(NamedTuple):
    """B windows of at most n steps."""

    index: Tensor  # (B, n) int64, rows
    inside: Tensor  # (B, n) bool, False after the window's end


class NStep(NamedTuple):
    """What a temporal-difference loss needs of B windows: ``target = returns + discount * Q'``."""

    obs: Tensor  # (B, D), at the window's beginning
    action: Tensor  # (B, A), there
    returns: Tensor  # (B,), sum of gamma^i r_i over the window
    discount: Tensor  # (B,), gamma^length, 0 where the episode terminated
    next_obs: Tensor  # (B, D), the true successor of the window's last step


def n_step(
    reward: Tensor, inside: Tensor, terminated: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Returns and discounts of windows.

    ``returns = sum_{i < length} gamma^i r_i``, ``discount = gamma^length`` or, where the last step
    terminated the episode, 0. A truncated episode ends the window and is bootstrapped from.

    Args:
        reward: (..., n).
        inside: (..., n) bool, a first part of each window.
        terminated: (...,) bool, of each window's last step.
        gamma: discount.

    Returns:
        Both (...,).

    Paper: Sutton, Barto (2018), "Reinforcement learning: an introduction", eq. 7.1.
    """
    steps = torch.arange(reward.shape[-1], device=reward.device)
    powers = gamma ** steps.to(reward.dtype)
    returns = (torch.where(inside, reward, 0.0) * powers).sum(-1)
    length = inside.sum(-1)
    return returns, torch.where(terminated, 0.0, gamma ** length.to(reward.dtype))


class NStepReplay:
    """A ring of ``capacity`` transitions; new ones overwrite the oldest.

    Args:
        capacity: transitions kept; at least twice as many as are added at once.
        num_envs: N.
        device: where they live.
        absorbing: observations and actions get one more column, 0 for all that is played. A
            terminated episode goes on in the state (0, ..., 0, 1) under the action (0, ..., 0, 1)
            for ever, one stored row that is its own successor (Kostrikov et al. 2019,
            "Discriminator-actor-critic"). Nothing is terminated then.

    Example:
        >>> import torch
        >>> replay = NStepReplay(8, 1, torch.device("cpu"))
        >>> x, no = torch.arange(3.0).reshape(3, 1, 1), torch.zeros(3, 1, dtype=torch.bool)
        >>> replay.add(x, x, x[..., 0], x + 1, no, no, None)
        >>> windows = replay.windows(torch.tensor([0, 2]), 2)
        >>> windows.inside.tolist()
        [[True, True], [True, False]]
        >>> batch = replay.batch(windows, 0.5)
        >>> batch.returns.tolist(), batch.discount.tolist()
        ([0.5, 2.0], [0.25, 0.5])
    """

    def __init__(
        self, capacity: int, num_envs: int, device: torch.device, absorbing: bool = False
    ) -> None:
        self.capacity, self.device, self.absorbing = capacity, device, absorbing
        self._rows: Rows | None = None
        self._size = self._next = 0
        # The rows whose next step is to come; ``capacity`` where no episode is running: the column
        # of links has one place more, which nobody reads.
        self._last = torch.full((num_envs,), capacity, device=device)

    def __len__(self) -> int:
        return self._size

    def add_rollout(self, rollout: Rollout, reward: Tensor) -> None:
        """Store what was played, with ``reward`` (T, N)."""
        self.add(
            rollout.obs,
            rollout.action,
            reward,
            rollout.next_obs,
            rollout.terminated,
            rollout.truncated,
            rollout.valid,
        )

    def add(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        valid: Tensor | None,
    ) -> None:
        """Store T steps of N environments, (T, N, ...), which follow on those added before.

        Dead steps (``valid`` False) are left out.

        Raises:
            ValueError: if more than half of the capacity is added at once.
        """
        obs, next_obs = obs.to(torch.float32), next_obs.to(torch.float32)
        ends = terminated if self.absorbing else torch.zeros_like(terminated)
        if self.absorbing:
            flag = ends.to(torch.float32).unsqueeze(-1)
            obs, action = _flagged(obs, 0.0), _flagged(action, 0.0)
            next_obs = torch.cat([next_obs * (1.0 - flag), flag], -1)
            truncated, terminated = truncated & ~ends, torch.zeros_like(ends)
        # A step takes one place, and its absorbing row, if it has one, the place after that.
        alive = torch.ones_like(ends) if valid is None else valid
        width = (alive.to(torch.int64) + (ends & alive)).reshape(-1)
        end = width.cumsum(0)
        count = int(end[-1]) if self.absorbing or valid is not None else len(width)
        if 2 * count > self.capacity:
            raise ValueError(
                f"capacity={self.capacity}: expected at least {2 * count}, twice what is added"
            )
        place = ((end - width + self._next) % self.capacity).reshape(ends.shape)
        going = alive & ~(terminated | truncated | ends)
        link = torch.full_like(place, _NONE)
        link[:-1] = torch.where(going[:-1] & alive[1:], place[1:], _NONE)
        link = torch.where(ends & alive, (place + 1) % self.capacity, link)
        rows = Rows(obs, action, reward, next_obs, terminated, truncated, link)
        if self._rows is not None:
            self._rows.link[self._last] = torch.where(alive[0], place[0], _NONE)
        self._put(Rows(*(x.flatten(0, 1) for x in rows)), place.flatten(), valid)
        if self.absorbing and bool(ends.any()):
            self._put_absorbing(((place + 1) % self.capacity)[ends & alive])
        self._last = torch.where(going[-1], place[-1], self.capacity)
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def windows(self, start: Tensor, n: int) -> Windows:
        """The windows of at most ``n`` steps that begin at rows ``start`` (B,)."""
        link = self._stored().link
        index, inside = [start], [torch.ones_like(start, dtype=torch.bool)]
        for _ in range(n - 1):
            following = link[index[-1]]
            going = inside[-1] & (following >= 0)
            index.append(torch.where(going, following, index[-1]))
            inside.append(going)
        return Windows(torch.stack(index, -1), torch.stack(inside, -1))

    def batch(
        self,
        windows: Windows,
        gamma: float,
        reward_of: Callable[[Transition], Tensor] | None = None,
        to_env: Callable[[Tensor], Tensor] | None = None,
    ) -> NStep:
        """What a loss needs of windows, of any leading shape.

        Args:
            windows: of this buffer.
            gamma: discount.
            reward_of: pays every step of the windows anew, in place of the stored reward.
            to_env: makes of stored actions what ``reward_of`` sees.
        """
        rows, (index, inside) = self._stored(), windows
        first, last = index[..., 0], index[..., -1]
        if reward_of is None:
            reward = rows.reward[index]
        else:
            flat = index.flatten()
            reward = reward_of(self.transitions(flat, to_env)).reshape(index.shape)
        returns, discount = n_step(reward, inside, rows.terminated[last], gamma)
        return NStep(rows.obs[first], rows.action[first], returns, discount, rows.next_obs[last])

    def transitions(
        self, index: Tensor, to_env: Callable[[Tensor], Tensor] | None = None
    ) -> Transition:
        """Stored rows (B,) as reward functions take them; steps are not counted: all are 0."""
        obs, action, reward, next_obs, terminated, truncated, _ = (x[index] for x in self._stored())
        return Transition(
            obs=obs,
            action=action if to_env is None else to_env(action),
            next_obs=next_obs,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=torch.ones_like(terminated),
            episode_step=torch.zeros_like(index),
        )

    # ---- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The rows that are filled, and where the ring is: the file grows with what is stored."""
        rows = None
        if self._rows is not None:
            rows = {k: v[: self._size].clone() for k, v in self._rows._asdict().items()}
        return {"rows": rows, "next": self._next, "last": self._last, "capacity": self.capacity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken.

        Raises:
            ValueError: if it was saved with another capacity.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"state_dict: {state['capacity']} places, expected {self.capacity}")
        self._next, self._last, self._size = state["next"], state["last"], 0
        if state["rows"] is not None:
            saved = Rows(**state["rows"])
            self._rows = self._room(saved)
            self._size = len(saved.reward)
            for kept, x in zip(self._rows, saved, strict=True):
                kept[: self._size] = x

    # ---- pieces ------------------------------------------------------------------------------

    def _stored(self) -> Rows:
        if self._rows is None:
            raise ValueError("replay: it is empty; add transitions before sampling")
        return self._rows

    def _room(self, like: Rows) -> Rows:
        def column(x: Tensor, places: int) -> Tensor:
            return torch.zeros((places, *x.shape[1:]), dtype=x.dtype, device=self.device)

        *columns, link = like
        places = self.capacity
        return Rows(*(column(x, places) for x in columns), column(link, places + 1))

    def _put(self, rows: Rows, place: Tensor, valid: Tensor | None) -> None:
        if valid is not None:
            kept = valid.flatten()
            rows, place = Rows(*(x[kept] for x in rows)), place[kept]
        if self._rows is None:
            self._rows = self._room(rows)
        for column, new in zip(self._rows, rows, strict=True):
            column[place] = new

    def _put_absorbing(self, place: Tensor) -> None:
        rows = self._stored()
        for column in (rows.obs, rows.next_obs, rows.action):
            column[place] = 0.0
            column[place, -1] = 1.0
        rows.reward[place] = 0.0
        rows.terminated[place] = rows.truncated[place] = False
        rows.link[place] = place


def _flagged(x: Tensor, flag: float) -> Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=flag)
