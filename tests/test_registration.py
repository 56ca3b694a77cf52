"""The registries find what is there, refuse what is there twice, and suggest what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

import rewardzoo
from rewardzoo.registration import (
    AGENTS,
    EXPERIMENTS,
    REWARDS,
    Registry,
    UnknownNameError,
    check_env_id,
    env_ids,
    load_plugin,
    register_env,
    register_reward,
)


@pytest.fixture(autouse=True)
def as_before():
    """Registrations of a test end with it."""
    entries, ids = dict(REWARDS._entries), dict(gymnasium.registry)
    yield
    REWARDS._entries.clear()
    REWARDS._entries.update(entries)
    gymnasium.registry.clear()
    gymnasium.registry.update(ids)


def test_importing_is_light_and_registers() -> None:
    heavy = (
        "matplotlib pandas stable_baselines3 mujoco nle minihack gym scipy transformers ray typer"
    )
    code = (
        f"import sys, rewardzoo, gymnasium; heavy = set({heavy.split()!r}) & set(sys.modules);"
        "assert not heavy, heavy;"
        "loaded = [m for m in sys.modules if m.startswith('rewardzoo') and m.endswith('dynamics')];"
        "assert not loaded, loaded;"
        "assert {'rewardzoo/SepsisICU-v0', 'rewardzoo/CartPole-v0'} <= set(gymnasium.registry)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_file_is_discovered() -> None:
    for package in ("CartPole", "MountainCar", "MountainCarContinuous", "Pendulum", "GridWorld"):
        assert f"rewardzoo/{package}-v0" in env_ids()
    assert {"objective", "potential"} <= set(REWARDS)
    assert "ppo" in AGENTS and "quickstart" in EXPERIMENTS
    assert list(REWARDS) == sorted(REWARDS)


def test_a_new_file_in_the_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_rewards"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fresh.py").write_text(
        "import builtins\n@builtins.test_registry.register('fresh')\nclass Fresh: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[type] = Registry("thing", "some_rewards")
    monkeypatch.setattr("builtins.test_registry", registry, raising=False)
    assert "fresh" in registry and registry["fresh"].registered_name == "fresh"  # type: ignore[attr-defined]


def test_a_second_one_of_a_name_is_refused() -> None:
    @register_reward("once")
    class First:
        pass

    with pytest.raises(ValueError, match="'once' is registered twice: by .*First and by .*Second"):

        @register_reward("once")
        class Second:
            pass

    assert REWARDS["once"] is First
    register_reward("once")(First)  # the same one again, as a reloaded module does


def test_an_environment_id_of_other_dynamics_is_refused() -> None:
    register_env("rewardzoo/Twice-v0", "rewardzoo.envs.cart_pole.dynamics:CartPole")
    register_env("rewardzoo/Twice-v0", "rewardzoo.envs.cart_pole.dynamics:CartPole")
    with pytest.raises(ValueError, match=r"rewardzoo/Twice-v0.* is registered twice"):
        register_env("rewardzoo/Twice-v0", "rewardzoo.envs.pendulum.dynamics:Pendulum")


@pytest.mark.parametrize(
    ("registry", "wrong", "right"),
    [
        (REWARDS, "potental", "potential"),
        (AGENTS, "poo", "ppo"),
        (EXPERIMENTS, "quikstart", "quickstart"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(registry: Registry, wrong: str, right: str) -> None:
    with pytest.raises(UnknownNameError, match=f"{wrong}' is unknown: did you mean '{right}'"):
        registry[wrong]
    with pytest.raises(
        UnknownNameError, match=f"{registry.kind} 'zzz' is unknown: known: .*{right}"
    ):
        registry["zzz"]


def test_an_unknown_environment_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rewardzoo/CartPole-v0'"):
        check_env_id("rewardzoo/CartPol-v0")
    check_env_id("rewardzoo:rewardzoo/CartPole-v0")
    check_env_id("CartPole-v1")


def test_a_plugin_registers_what_it_defines(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom rewardzoo import RewardFunction, register_reward\n"
        "@register_reward('mine')\nclass Mine(RewardFunction):\n"
        "    def __call__(self, t):\n        return torch.full_like(t.reward, 2.0)\n"
    )
    assert "mine" not in REWARDS
    load_plugin(file)
    load_plugin(str(file))  # twice is once
    env = rewardzoo.RewardWrapper(gymnasium.make("rewardzoo/CartPole-v0"), REWARDS["mine"]())
    env.reset(seed=0)
    assert env.step(0)[1] == 2.0
    with pytest.raises(ValueError, match="there is no such file"):
        load_plugin(tmp_path / "none.py")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match="expected a Python file"):
        load_plugin(text)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import torch\ntorch.nothing\n", "wrong.py', line 2: AttributeError: .*nothing"),
        ("import no_such_package\n", "wrong.py', line 1: ModuleNotFoundError: .*no_such_package"),
        ("x = (1,\n", r"wrong.py': SyntaxError: .*\(wrong.py, line 1\)"),
        ("def f():\n    raise OSError('gone')\n\nf()\n", "wrong.py', line 2: OSError: gone"),
    ],
)
def test_an_error_of_a_plugin_says_its_line(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(code)
    with pytest.raises(ValueError, match=message):
        load_plugin(file)
    assert "rewardzoo_plugin_wrong" not in sys.modules
