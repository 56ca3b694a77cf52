"""Debates over the treatment of sepsis; ``sepsis_debate_v0`` holds the PettingZoo environments."""

from __future__ import annotations

from rewardzoo.registration import register_env

register_env("rewardzoo/SepsisDebate-v0", "rewardzoo.envs.sepsis_debate.dynamics:SepsisDebate")
