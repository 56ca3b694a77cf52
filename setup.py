"""Package discovery: envs, agents and experiments are installed inside rewardzoo."""

from setuptools import find_packages, setup

INNER = ("envs", "agents", "experiments")
outer = find_packages(include=["rewardzoo*"], exclude=[f"rewardzoo.{name}*" for name in INNER])
inner = find_packages(include=[pattern for name in INNER for pattern in (name, f"{name}.*")])
setup(packages=[*outer, *(f"rewardzoo.{name}" for name in inner)])
