"""Knee osteoarthritis: when to see a patient whose disease progresses unseen."""

from __future__ import annotations

from rewardzoo.registration import register_env

# An episode is ended by its last decision, so there is nothing to truncate.
register_env("rewardzoo/KneeOA-v0", "rewardzoo.envs.knee_oa.dynamics:KneeOA")
register_env("rewardzoo/KneeOASingle-v0", "rewardzoo.envs.knee_oa.dynamics:KneeOASingle")
