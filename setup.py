"""Package discovery: envs, agents and experiments are installed inside rewardzoo."""

from setuptools import find_packages, setup

inner = ("envs", "agents", "experiments")
nested = [
    f"rewardzoo.{name}"
    for root in inner
    for name in find_packages(".", include=[root, f"{root}.*"])
]
outer = find_packages(
    ".", include=["rewardzoo", "rewardzoo.*"], exclude=[f"rewardzoo.{r}*" for r in inner]
)
setup(packages=[*outer, *nested])
