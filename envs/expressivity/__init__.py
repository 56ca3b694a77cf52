"""Five tiny environments on which formalisms of objectives come apart (Subramani et al. 2024)."""

from __future__ import annotations

from rewardzoo.registration import register_env

for _name in ("OneState", "OneChoice", "TwoChoices", "LeaveOrStay", "Unvisited"):
    register_env(
        f"rewardzoo/{_name}-v0",
        f"rewardzoo.envs.expressivity.dynamics:{_name}",
        max_episode_steps=100,
    )
