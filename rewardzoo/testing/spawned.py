"""What test processes run: a spawned process must be able to import it."""

from __future__ import annotations

from typing import Any

import gymnasium


def first_observation(id: str = "rewardzoo:rewardzoo/CartPole-v0", seed: int = 1) -> Any:
    """The observation after ``reset(seed)``, in a process that has imported nothing of ours."""
    obs, _ = gymnasium.make(id).reset(seed=seed)
    return obs
