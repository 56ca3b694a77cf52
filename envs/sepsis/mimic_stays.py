"""``LoggedStays``: what any of MIMIC-III's tables becomes, and how its rows become stays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rewardzoo.data.tables import Problem, Table, TableError

from .data import ACTION_LEAKS, FEATURES

FEATURES_44: tuple[str, ...] = tuple(name for name in FEATURES if name not in ACTION_LEAKS)
"""In the order of the environment's observation."""
WINDOWS = 21  # of a stay, at most
SPLITS = {"train": 0.70, "validation": 0.15, "test": 0.15}


class Episodes(NamedTuple):
    """N stays of at most T windows, as ``agents.common.logged.LoggedEpisodes`` has them."""

    obs: Tensor  # (N, T + 1, 44) float32; 0 on padding and after the last window
    action: Tensor  # (N, T) int64
    reward: Tensor  # (N, T) float32
    valid: Tensor  # (N, T) bool
    terminated: Tensor  # (N,) bool


@dataclass(frozen=True)
class LoggedStays:
    """Stays with their split.

    Args:
        features: (N, T, 44) float32 in the order of ``FEATURES_44``.
        action: (N, T) int64, ``5 * fluids + vasopressor``.
        valid: (N, T) bool.
        survived: (N,) bool.
        split: (N,) int64, index into ``SPLITS``.
        stay: (N,) int64, the stay's number in the file; for telling splits apart only.
        dropped: stays of a single window, left out.
        normalised: whether features are in normalised units.
    """

    features: Tensor
    action: Tensor
    valid: Tensor
    survived: Tensor
    split: Tensor
    stay: Tensor
    dropped: int
    normalised: bool

    def __len__(self) -> int:
        return len(self.stay)

    def episodes(self, split: str = "train") -> Episodes:
        """The stays of a split, paid 1 on survival and -1 on death at their last window.

        Raises:
            ValueError: for an unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
        rows = self.split == list(SPLITS).index(split)
        valid = self.valid[rows]
        features = self.features[rows]
        last = valid.sum(1) - 1
        reward = torch.zeros(valid.shape)
        outcome = torch.where(self.survived[rows], 1.0, -1.0)
        reward[torch.arange(len(last)), last] = outcome
        after = torch.zeros_like(features[:, :1])
        return Episodes(
            torch.cat([features, after], 1),
            self.action[rows],
            reward,
            valid,
            torch.ones(len(last), dtype=torch.bool),
        )


def feature_hash(names: Sequence[str] = FEATURES_44) -> str:
    """A fingerprint of a feature list, kept with what was learned from it."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def check_features(names: Sequence[str], fingerprint: str) -> None:
    """Refuse what was learned from other features, or the same in another order.

    Raises:
        ValueError: if the fingerprint is not that of ``names``.
    """
    if feature_hash(names) != fingerprint:
        raise ValueError(
            "features: what was saved was learned from other features, or from the same in another "
            "order; train it again on these"
        )


def stays_of(table: Table, stay: str, step: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check that windows follow one another.

    Args:
        table: with the two columns.
        stay: column of the stay's number.
        step: column of the window's.

    Returns:
        (R,) the stay of each row from 0, (R,) its window from 0, and (N,) the stays' numbers.
    """
    number = table.number(stay, 0, 2**53, integer=True)
    window = table.number(step, 0, 10_000, integer=True)
    if table.problems:
        raise TableError(table.problems)
    names, first, back = np.unique(number, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # by first appearance
    which = order[back]
    position = np.zeros(len(which), np.int64)
    begun: dict[int, int] = {}
    count: dict[int, int] = {}
    current = -1
    for row, k in enumerate(which.tolist()):
        if k not in begun:
            begun[k], count[k] = row, 0
        elif k != current:
            table.add(row, stay, "rows of one stay must follow one another")
        else:
            count[k] += 1
            if window[row] != window[begun[k]] + count[k]:
                table.add(row, step, "expected the window after that of the row before")
        position[row] = count[k]
        if count[k] == WINDOWS:
            table.add(row, step, f"more than {WINDOWS} windows in one stay")
        current = k
    numbers = names[np.argsort(first)].astype(np.int64)
    return which, position, numbers


def collect(
    which: np.ndarray,
    position: np.ndarray,
    numbers: np.ndarray,
    features: np.ndarray,
    action: np.ndarray,
    survived: np.ndarray,
    split: np.ndarray,
    normalised: bool,
) -> LoggedStays:
    """Stays from rows, without those of a single window.

    Args:
        which: (R,) the stay of each row.
        position: (R,) its window.
        numbers: (N,) the stays' numbers.
        features: (R, 44).
        action: (R,).
        survived: (N,) bool.
        split: (N,).
        normalised: whether features are in normalised units.
    """
    lengths = np.bincount(which, minlength=len(numbers))
    table = np.zeros((len(numbers), int(lengths.max()), features.shape[1]), np.float32)
    actions = np.zeros(table.shape[:2], np.int64)
    valid = np.zeros(table.shape[:2], bool)
    table[which, position] = features
    actions[which, position] = action
    valid[which, position] = True
    kept = lengths >= 2
    return LoggedStays(
        *(torch.tensor(x[kept]) for x in (table, actions, valid, survived, split, numbers)),
        dropped=int((~kept).sum()),
        normalised=normalised,
    )


def draw_split(survived: np.ndarray, lengths: np.ndarray, seed: int) -> np.ndarray:
    """70, 15 and 15 % of the stays of two windows or more, the same share of deaths in each.

    Returns:
        (N,) index into ``SPLITS``; -1 for stays of a single window, which are left out.
    """
    generator = np.random.default_rng(seed)
    split = np.full(len(survived), -1)
    shares = np.cumsum(list(SPLITS.values()))[:-1]
    for outcome in (False, True):
        rows = generator.permutation(np.flatnonzero((survived == outcome) & (lengths >= 2)))
        for part, some in enumerate(np.split(rows, np.round(shares * len(rows)).astype(int))):
            split[some] = part
    return split


def merge(parts: Sequence[LoggedStays], files: Sequence[str]) -> LoggedStays:
    """Stays from one file a split.

    Raises:
        TableError: if a stay is in two files.
    """
    for i, part in enumerate(parts):
        for j in range(i):
            both = torch.isin(part.stay, parts[j].stay)
            if bool(both.any()):
                message = f"{int(both.sum())} stays are in {files[j]} too: no stay may be in two"
                raise TableError([Problem(files[i], None, None, message)])
    longest = max(part.features.shape[1] for part in parts)

    def padded(x: Tensor) -> Tensor:
        room = x.new_zeros((len(x), longest - x.shape[1], *x.shape[2:]))
        return torch.cat([x, room], 1)

    return LoggedStays(
        *(
            torch.cat([padded(getattr(p, k)) for p in parts])
            for k in ("features", "action", "valid")
        ),
        torch.cat([p.survived for p in parts]),
        torch.cat([torch.full_like(p.split, i) for i, p in enumerate(parts)]),
        torch.cat([p.stay for p in parts]),
        dropped=sum(p.dropped for p in parts),
        normalised=all(p.normalised for p in parts),
    )


def summary(stays: LoggedStays, name: str) -> dict[str, int]:
    """Counts, for people.

    Raises:
        TableError: if no stay is left.
    """
    if not len(stays):
        message = f"no stay is left: {stays.dropped} have a single window"
        raise TableError([Problem(name, None, None, message)])
    return {
        "stays": len(stays) + stays.dropped,
        "left out: a single window": stays.dropped,
        "windows": int(stays.valid.sum()),
        "deaths": int((~stays.survived).sum()),
    }
