"""The zoo's own policies: ``manifest.json`` says how each is trained, ``trained`` holds them."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..registration import AGENTS, UnknownNameError, unknown
from .policies import Recipe, load_policy, save_policy, score

_HERE = Path(str(importlib.resources.files(__package__ or "rewardzoo.zoo")))
TRAINED = _HERE / "trained"
EPISODES = 1000
"""Behind the scores of a card."""


@functools.cache
def _recipes() -> dict[str, Recipe]:
    entries = json.loads((_HERE / "manifest.json").read_text(encoding="utf-8"))
    return {name: Recipe(**entry) for name, entry in sorted(entries.items())}


def names() -> list[str]:
    """Of all policies of the zoo."""
    return list(_recipes())


def recipe(name: str) -> Recipe:
    """How a policy is trained.

    Raises:
        UnknownNameError: suggesting the nearest name.
    """
    if name not in _recipes():
        raise UnknownNameError(unknown("policy", name, _recipes()))
    return _recipes()[name]


def load(name: str, device: str = "cpu") -> Any:
    """A trained agent, with ``act``, ``predict`` and ``evaluate``.

    Args:
        name: one of ``names()``.
        device: where it computes.

    Raises:
        UnknownNameError: suggesting the nearest name.
    """
    recipe(name)
    return load_policy(TRAINED / name, device=device)


def train(
    name: str,
    out: str | Path,
    device: str = "cpu",
    callback: Callable[[Any, dict[str, float]], bool | None] | None = None,
    progress_bar: bool = False,
) -> Path:
    """Train a policy of the manifest again.

    Args:
        name: one of ``names()``.
        out: the policy is written into its folder ``name``.
        device: where to compute; another one than the CPU ends with other weights.
        callback: see ``Agent.learn``.
        progress_bar: show one.

    Returns:
        The folder.
    """
    made = recipe(name)
    settings = {"device": device, "seed": made.seed, **made.settings}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small networks learn no faster on more, and end elsewhere
    try:
        agent = AGENTS[made.agent](made.envs(device=device), **settings)
        agent.learn(made.steps, callback=callback, progress_bar=progress_bar)
        folder, scores = Path(out) / name, score(agent, made, EPISODES, EPISODES, device)
        save_policy(folder, agent, made, scores, load=f'load("{name}")')
    finally:
        torch.set_num_threads(threads)
    return folder
