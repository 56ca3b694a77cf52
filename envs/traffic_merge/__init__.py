"""Traffic: automated vehicles among human drivers where an on-ramp joins a highway."""

from __future__ import annotations

from rewardzoo.registration import register_simulator

# 300 steps of a second.
register_simulator(
    "rewardzoo/TrafficMerge-v0",
    "rewardzoo.envs.traffic_merge.env:TrafficMerge",
    "rewardzoo.envs.traffic_merge.env:TrafficMergeVector",
    max_episode_steps=300,
)
