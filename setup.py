"""Package discovery: envs, agents and experiments are installed inside rewardzoo."""

from setuptools import Extension, find_packages, setup

INNER = ("envs", "agents", "experiments")
outer = find_packages(include=["rewardzoo*"], exclude=[f"rewardzoo.{name}*" for name in INNER])
inner = find_packages(include=[pattern for name in INNER for pattern in (name, f"{name}.*")])
setup(
    packages=[*outer, *(f"rewardzoo.{name}" for name in inner)],
    ext_modules=[
        Extension(
            "rewardzoo.envs.nethack._crew",
            ["envs/nethack/_crew.c"],
            extra_compile_args=["-O2", "-pthread"],
            py_limited_api=True,
            optional=True,  # without a compiler, games are stepped by processes
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
