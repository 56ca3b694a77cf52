"""Who says that a subgoal was achieved: rules for key rooms, noise, or annotated transitions."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor

from ..random import Rng
from ..transition import Transition
from .base import Spaces, integer, number
from .lookup import hash_rows

KEY, DOOR = "pick up the key", "unlock the door"
_KEY_MESSAGE = " - a key named The Master Key of Thievery"
_DOOR_SIGN, _NOTHING = ord("+"), ord(" ")
_CROP, _MESSAGE = "chars_crop", "message"


class Detector:
    """Says which subgoals a transition achieved.

    Attributes:
        subgoals: their names.
        pure: whether the answer depends on the transition alone.
        version: counts changes of its answers.
    """

    subgoals: tuple[str, ...] = (KEY, DOOR)
    pure: bool = True
    version: int = 0

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Create memory for ``num_envs`` rows on ``device``."""

    def detect(self, t: Transition) -> Tensor:
        """(N, K) float32 in [0, 1]."""
        raise NotImplementedError

    def observe(self, t: Transition) -> None:
        """Collect what it may have to ask about."""

    def update(self) -> dict[str, float]:
        """Ask and learn; metrics to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Memory."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""


class KeyRoomOracle(Detector):
    """The truth in MiniHack's key rooms.

    The key: the action is PICKUP and the next message says that the key is in hand. The door: the
    action is APPLY and the number of closed doors on the map falls by exactly one. (The message
    after unlocking also follows failures, and a map that was never seen or is blank after the
    game's end shows no door at all.)

    Args:
        pickup: index of PICKUP; the default is that of the action set ``calm``.
        apply: index of APPLY.
    """

    def __init__(self, pickup: int = 4, apply: int = 5) -> None:
        self.pickup, self.apply = integer("pickup", pickup, 0), integer("apply", apply, 0)
        self._pattern = _words(torch.tensor([list(_KEY_MESSAGE.encode())], dtype=torch.uint8))

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Check that the observation shows what is needed.

        Raises:
            ValueError: if it does not.
        """
        check_key_room(spaces)
        n = spaces.action.n if isinstance(spaces.action, gym_spaces.Discrete) else 0
        if max(self.pickup, self.apply) >= n:
            raise ValueError(
                f"pickup={self.pickup}, apply={self.apply}: the environment's actions are "
                f"{spaces.action}; make it with actions='calm', or give both indices"
            )
        self._pattern = self._pattern.to(device)

    def detect(self, t: Transition) -> Tensor:
        """(N, 2) float32: key, door."""
        in_hand = _contains(t.next_obs[_MESSAGE], self._pattern)
        doors, doors_after = (_doors(obs) for obs in (t.obs, t.next_obs))
        after = t.next_obs[_CROP]
        blank = ((after == 0) | (after == _NOTHING)).flatten(1).all(1)
        opened = (doors - doors_after == 1) & ~blank
        key, door = (t.action == self.pickup) & in_hand, (t.action == self.apply) & opened
        return torch.stack([key, door], 1).to(torch.float32)


class NoisyDetector(Detector):
    """Another detector with errors: misses some of what it finds, and finds what is not there.

    Args:
        inner: the detector.
        recall: probability that a true detection is kept.
        false_positives: probability a step and subgoal of a false one.
        seed: of the errors.
    """

    pure = False

    def __init__(
        self, inner: Detector, recall: float, false_positives: float, seed: int = 0
    ) -> None:
        self.inner, self.subgoals, self.seed = inner, inner.subgoals, seed
        self.recall = number("recall", recall, 0.0, 1.0)
        self.false_positives = number("false_positives", false_positives, 0.0, 1.0)

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Start every row's errors anew."""
        self.inner.bind(num_envs, device, spaces)
        self._rows = torch.arange(num_envs, device=device) + self.seed
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def detect(self, t: Transition) -> Tensor:
        """(N, K) float32."""
        rng = Rng(self._rows, torch.zeros_like(self._steps), self._steps, stream=5)
        self._steps = self._steps + t.valid
        found = self.inner.detect(t)
        kept = rng.uniform(found.shape[1]) < self.recall
        false = rng.uniform(found.shape[1]) < self.false_positives
        return torch.where(found > 0, found * kept, false.to(torch.float32))

    def observe(self, t: Transition) -> None:
        """The inner detector's."""
        self.inner.observe(t)

    def update(self) -> dict[str, float]:
        """The inner detector's."""
        return self.inner.update()

    def state_dict(self) -> dict[str, Any]:
        """Where each row's errors are."""
        return {"steps": self._steps.clone(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue."""
        self._steps = state["steps"].to(self._rows.device, copy=True)
        self.inner.load_state_dict(state["inner"])


class RandomDetector(Detector):
    """The negative control: labels by chance, always the same for the same transition.

    Args:
        rate: share of transitions said to achieve a subgoal, for each of them.
        seed: another seed gives other labels.
    """

    def __init__(self, rate: float = 0.04, seed: int = 0) -> None:
        self.rate, self.seed = number("rate", rate, 0.0, 1.0), seed

    def bind(self, num_envs: int, device: torch.device, spaces: Spaces) -> None:
        """Check the observation."""
        check_key_room(spaces)

    def detect(self, t: Transition) -> Tensor:
        """(N, 2) float32."""
        key = hash_transition(t)
        rng = Rng(key, torch.full_like(key, self.seed), 0, stream=6)
        return (rng.uniform(len(self.subgoals)) < self.rate).to(torch.float32)


def hash_transition(t: Transition) -> Tensor:
    """(N,) int64: what a judge is shown of a transition."""
    before, after = t.obs, t.next_obs
    action = t.action.reshape(-1, 1)
    return hash_rows(before[_CROP], action, before[_MESSAGE], after[_CROP], after[_MESSAGE])


def check_key_room(spaces: Spaces) -> None:
    """Raise unless the observation has the window around the hero and the message.

    Raises:
        ValueError: saying how to get them.
    """
    found = spaces.observation
    keys = set(found.spaces) if isinstance(found, gym_spaces.Dict) else set()
    if not {_CROP, _MESSAGE} <= keys:
        raise ValueError(
            f"observation {sorted(keys) or found}: expected a Dict with {_CROP!r} and "
            f"{_MESSAGE!r}; make the environment with observation_keys=({_CROP!r}, {_MESSAGE!r})"
        )


def _words(rows: Tensor) -> Tensor:
    """Every 8 bytes in a row (N, L) uint8 as one number, (N, L - 7) int64."""
    windows: Tensor = rows.unfold(1, 8, 1).contiguous()
    return windows.view(torch.int64).squeeze(2)


def _contains(rows: Tensor, pattern: Tensor) -> Tensor:
    """(N,) bool, whether a text stands anywhere in a row; ``pattern`` (1, P) are its words."""
    words, last = _words(rows), pattern.shape[1] - 1
    starts = words.shape[1] - last
    found = words[:, last:] == pattern[0, last]
    for i in range(0, last, 8):
        found = found & (words[:, i : i + starts] == pattern[0, i])
    return found.any(1)


def _doors(obs: Any) -> Tensor:
    count: Tensor = (obs[_CROP] == _DOOR_SIGN).flatten(1).sum(1)
    return count
