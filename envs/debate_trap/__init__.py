"""A debate whose exact value is known, and in which a debater trained alone is a fool."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env("rewardzoo/DebateTrap-v0", "rewardzoo.envs.debate_trap.dynamics:DebateTrap")
