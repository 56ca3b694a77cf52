"""PegInHoleContact: a trial-and-error insertion on contact physics, to be cut short or not."""

from __future__ import annotations

from rewardzoo.registration import register_simulator

register_simulator(
    "rewardzoo/PegInHoleContact-v0",
    "rewardzoo.envs.peg_in_hole_contact.env:PegInHoleContact",
    "rewardzoo.envs.peg_in_hole_contact.env:PegInHoleContactVector",
)
