"""Submodular coverage and its siblings: paid for what is new, not for what is visited again."""

from __future__ import annotations

from rewardzoo.registration import register_env, register_simulator

_HERE = "rewardzoo.envs.submodular"

register_env("rewardzoo/SubmodularCoverage-v0", f"{_HERE}.coverage:SubmodularCoverage")
register_env("rewardzoo/SubmodularNests-v0", f"{_HERE}.coverage:SubmodularNests")
register_env("rewardzoo/SubmodularTwoRooms-v0", f"{_HERE}.rooms:SubmodularTwoRooms")
register_env("rewardzoo/SubmodularBuilding-v0", f"{_HERE}.rooms:SubmodularBuilding")
register_env("rewardzoo/SubmodularItems-v0", f"{_HERE}.items:SubmodularItems")
register_env("rewardzoo/SubmodularDesign-v0", f"{_HERE}.design:SubmodularDesign")
register_env("rewardzoo/SubmodularFacility-v0", f"{_HERE}.design:SubmodularFacility")
register_env("rewardzoo/SubmodularGraph-v0", f"{_HERE}.graph:SubmodularGraph")
register_env("rewardzoo/SubmodularBandit-v0", f"{_HERE}.graph:SubmodularBandit")
register_env("rewardzoo/SubmodularCar-v0", f"{_HERE}.car:SubmodularCar")
register_simulator(
    "rewardzoo/SubmodularAnt-v0", f"{_HERE}.ant:SubmodularAnt", max_episode_steps=400
)
