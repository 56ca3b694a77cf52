"""HalfCheetah whose objective is speed alone: what effort should cost is for advice to say."""

from __future__ import annotations

from functools import partial
from typing import Any

from rewardzoo.envs.mujoco_locomotion.env import HalfCheetah, make_vector


class AlignmentHalfCheetah(HalfCheetah):
    """Run forward as fast as possible on two legs in a plane; effort is free.

    Dynamics: MuJoCo, 50 ms steps of Gymnasium's ``HalfCheetah-v5``.

    Observation: Box (17,) float32: height, eight angles and nine velocities, less the place along
    the track.

    Action: Box (6,) in [-1, 1]: torques at the joints.

    Objective: forward speed (m/s). Advice about effort is ``action_cost``: a weight of 1 is mild,
    with 4 it pays to stand still.

    Start state: standing, positions moved uniformly within .1, velocities normal with standard
    deviation .1.

    End of episode: never terminated; truncated after 1,000 steps.

    Arguments: those of Gymnasium's environment, ``ctrl_cost_weight`` apart.

    Reference returns: no published one without the cost of effort.

    Paper: Gupta, Chandak, Jordan, Thomas, Castro da Silva (2023), "Behavior Alignment via Reward
    Function Optimization", NeurIPS.
    """

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, ctrl_cost_weight=0.0, **kwargs)


AlignmentHalfCheetahVector = partial(make_vector, task=AlignmentHalfCheetah)
