"""Two faces, one dynamics: a row of the batch is the single environment, bit for bit."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rewardzoo.functional import FuncEnv
from rewardzoo.registration import env_ids
from rewardzoo.testing import first_observation

VARIANTS: dict[str, dict[str, Any]] = {
    **{id: {} for id in env_ids()},
    "rewardzoo/SepsisICU-v0 features": {"obs": "features", "obs_noise": 1.0},
}
STEPS = 1000


def split(variant: str) -> tuple[str, dict[str, Any]]:
    return variant.split(" ")[0], VARIANTS[variant]


def actions(envs: Any, steps: int) -> Any:
    envs.action_space.seed(1)
    return [torch.as_tensor(envs.action_space.sample()) for _ in range(steps)]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("num_envs", [1, 7, 4096])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_row_of_the_batch_is_the_single_environment(
    variant: str, num_envs: int, mode: AutoresetMode
) -> None:
    """Rows 0, middle and last, over 1,000 steps and the ends of episodes."""
    id, kwargs = split(variant)
    limit = {"max_episode_steps": 60}
    steps = STEPS if num_envs < 4096 else 200
    envs = gymnasium.make_vec(id, num_envs=num_envs, autoreset_mode=mode, **limit, **kwargs)
    rows = sorted({0, num_envs // 2, num_envs - 1})
    singles = {i: gymnasium.make(id, **limit, **kwargs) for i in rows}
    obs, _ = envs.reset(seed=11)
    last = {}
    for i, env in singles.items():
        last[i], _ = env.reset(seed=11 + i)
        np.testing.assert_array_equal(obs[i].numpy(), last[i])
    over = dict.fromkeys(rows, False)
    ends = 0
    for action in actions(envs, steps):
        obs, reward, terminated, truncated, info = envs.step(action)
        done = terminated | truncated
        for i, env in singles.items():
            if over[i] and mode is AutoresetMode.NEXT_STEP:
                last[i], _ = env.reset()
                assert float(reward[i]) == 0.0 and not bool(done[i])
                over[i] = False
            else:
                last[i], r, term, trunc, single_info = env.step(action[i].numpy())
                assert float(reward[i]) == np.float32(r)
                assert float(info["objective"][i]) == np.float32(single_info["objective"])
                assert (bool(terminated[i]), bool(truncated[i])) == (term, trunc)
                over[i] = term or trunc
                ends += over[i]
                if mode is AutoresetMode.SAME_STEP:
                    np.testing.assert_array_equal(info["final_obs"][i].numpy(), last[i])
                    if over[i]:
                        last[i], _ = env.reset()
        if mode is AutoresetMode.DISABLED and bool(done.any()):
            obs, _ = envs.reset(options={"reset_mask": done})
            for i, env in singles.items():
                if over[i]:
                    last[i], _ = env.reset()
        for i in rows:
            np.testing.assert_array_equal(obs[i].numpy(), last[i])
    assert ends >= 2 * len(rows)


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.filterwarnings("ignore")
def test_environment_checkers_pass(variant: str) -> None:
    from stable_baselines3.common.env_checker import check_env as check_sb3

    id, kwargs = split(variant)
    check_env(gymnasium.make(id, **kwargs).unwrapped, skip_render_check=True)
    check_sb3(gymnasium.make(id, **kwargs))


@pytest.mark.parametrize("id", env_ids())
def test_renders_a_picture(id: str) -> None:
    env = gymnasium.make(id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8 and frame.shape[2] == 3 and frame.std() > 5
    envs = gymnasium.make_vec(id, num_envs=2, render_mode="rgb_array")
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.render()[0], frame)


@pytest.mark.parametrize("id", env_ids())
def test_a_step_runs_on_the_meta_device(id: str) -> None:
    """Reading a value, or a tensor of another device, would raise."""
    for mode in AutoresetMode:
        envs = gymnasium.make_vec(id, num_envs=3, device="meta", autoreset_mode=mode)
        envs.reset(seed=0)
        action = torch.as_tensor(envs.action_space.sample()).to("meta")
        obs, reward, *_ = envs.step(action)
        assert obs.device.type == reward.device.type == "meta"


def test_seeding() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=3)
    first, _ = envs.reset(seed=5)
    second, _ = envs.reset()
    again, _ = envs.reset(seed=[5, 6, 7])
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert torch.equal(envs.reset()[0], second)
    shifted, _ = envs.reset(seed=6)
    assert torch.equal(shifted[:2], first[1:])


def test_episode_statistics_under_same_step() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=4, max_episode_steps=9)
    envs.reset(seed=0)
    ended = 0
    for action in actions(envs, 40):
        _, _, terminated, truncated, info = envs.step(action)
        assert torch.equal(info["_episode"], terminated | truncated)
        assert torch.equal(info["episode"]["r"], info["episode"]["l"].float())
        assert int(info["episode"]["l"][truncated].sum()) == 9 * int(truncated.sum())
        ended += int(truncated.sum())
    assert ended > 0


@pytest.mark.parametrize("id", env_ids())
def test_saved_and_loaded_goes_on_the_same(id: str) -> None:
    envs = gymnasium.make_vec(id, num_envs=5, max_episode_steps=13)
    envs.reset(seed=3)
    plan = actions(envs, 40)
    for action in plan[:20]:
        envs.step(action)
    saved = envs.state_dict()
    wanted = [envs.step(action)[:4] for action in plan[20:]]
    other = gymnasium.make_vec(id, num_envs=5, max_episode_steps=13)
    other.load_state_dict(saved)
    for action, want in zip(plan[20:], wanted, strict=True):
        for a, b in zip(other.step(action)[:4], want, strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another num_envs"):
        gymnasium.make_vec(id, num_envs=4).load_state_dict(saved)


def test_compiled_step_agrees() -> None:
    plain = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=16)
    fused = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=16, compile=True)
    torch.testing.assert_close(fused.reset(seed=0)[0], plain.reset(seed=0)[0])
    for action in actions(plain, 60):
        a, b = plain.step(action), fused.step(action)
        torch.testing.assert_close(b[0], a[0])
        assert torch.equal(a[2], b[2])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"device": "gpu"}, "device='gpu'"),
        ({"autoreset_mode": "Sometimes"}, "autoreset_mode='Sometimes'"),
        ({"gravitas": 1.0}, "did you mean 'gravity'"),
        ({"half_length": -1.0}, "half_length=-1.0: expected a finite number > 0"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2, **kwargs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_says_so() -> None:
    with pytest.raises(ValueError, match="sees no CUDA device"):
        gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2, device="cuda")


def test_misuse_is_told() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2, autoreset_mode="DISABLED")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(torch.zeros(2, dtype=torch.int64))
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(gymnasium.error.ResetNeeded, match="autoreset is disabled"):
        for _ in range(100):
            envs.step(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make("rewardzoo/CartPole-v0").unwrapped.step(0)


def test_importing_is_light_and_registers() -> None:
    code = (
        "import sys, rewardzoo, gymnasium;"
        "heavy = {'matplotlib', 'pandas', 'stable_baselines3', 'mujoco', 'nle', 'gym', 'scipy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert 'rewardzoo/SepsisICU-v0' in gymnasium.registry"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_module_qualified_id_works_in_spawned_workers() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        obs = pool.apply(first_observation)
    want, _ = gymnasium.make("rewardzoo/CartPole-v0").reset(seed=1)
    np.testing.assert_array_equal(obs, want)


def test_every_environment_documents_itself() -> None:
    for id in env_ids():
        dynamics = gymnasium.make(id).unwrapped.func
        assert isinstance(dynamics, FuncEnv)
        for heading in ("Observation:", "Action:", "Objective:", "Start state:", "End of episode:",
                        "Reference returns:", "Paper:"):  # fmt: skip
            assert heading in (type(dynamics).__doc__ or ""), (id, heading)
