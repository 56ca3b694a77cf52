"""Two faces, one dynamics: a row of the batch is the single environment, bit for bit."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode

from rewardzoo.functional import FuncEnv
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.registration import functional_ids
from rewardzoo.testing import first_observation
from rewardzoo.testing.scripted import ScriptedFunc

VARIANTS: dict[str, dict[str, Any]] = {
    **{id: {} for id in functional_ids()},
    "rewardzoo/SepsisICU-v0 features": {"obs": "features", "obs_noise": 1.0},
}
# Held to 1,000 steps and 4,096 rows in the default suite; the rest are, in the slow one.
WHOLE = ("CartPole", "GridWorld", "MountainCar", "Pendulum", "SepsisICU")
FAKE = "lazy:0"  # the one device besides the CPU whose fakes index and copy in a CPU-only PyTorch


def split(variant: str) -> tuple[str, dict[str, Any]]:
    return variant.split(" ")[0], VARIANTS[variant]


def actions(envs: Any, steps: int) -> Any:
    envs.action_space.seed(1)
    return [torch.as_tensor(envs.action_space.sample()) for _ in range(steps)]


def cases() -> list[Any]:
    """Every variant, batch size and number of steps."""
    found = []
    for variant in VARIANTS:
        whole = variant.split("/")[1].startswith(WHOLE)
        for num_envs in (1, 7, 4096):
            # (A variant with a normal number for each of 44 features is slow.)
            steps = 200 if num_envs == 4096 and VARIANTS[variant] else 1000
            marks = () if whole else pytest.mark.slow
            found.append(pytest.param(variant, num_envs, steps, marks=marks))
        if not whole:
            found.append(pytest.param(variant, 7, 150))
    return found


def assert_row(batch: Any, i: int, single: Any) -> None:
    """Row ``i`` of a tree of tensors is a tree of arrays, bit for bit."""
    if isinstance(batch, dict):
        assert set(batch) == set(single)
        for key, value in batch.items():
            assert_row(value, i, single[key])
    else:
        np.testing.assert_array_equal(batch[i].numpy(), single)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("variant", "num_envs", "steps"), cases())
def test_a_row_of_the_batch_is_the_single_environment(
    variant: str, num_envs: int, steps: int, mode: AutoresetMode
) -> None:
    """Rows 0, middle and last, over the ends of episodes."""
    id, kwargs = split(variant)
    limit = {"max_episode_steps": 60}
    envs = gymnasium.make_vec(id, num_envs=num_envs, autoreset_mode=mode, **limit, **kwargs)
    rows = sorted({0, num_envs // 2, num_envs - 1})
    singles = {i: gymnasium.make(id, **limit, **kwargs) for i in rows}
    obs, _ = envs.reset(seed=11)
    last = {}
    for i, env in singles.items():
        last[i], _ = env.reset(seed=11 + i)
        assert_row(obs, i, last[i])
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
                    assert_row(info["final_obs"], i, last[i])
                    if over[i]:
                        last[i], _ = env.reset()
        if mode is AutoresetMode.DISABLED and bool(done.any()):
            obs, _ = envs.reset(options={"reset_mask": done})
            for i, env in singles.items():
                if over[i]:
                    last[i], _ = env.reset()
        for i in rows:
            assert_row(obs, i, last[i])
    assert ends >= 2 * len(rows)


class Noisy(ScriptedFunc):
    """Each look at the state is noisy."""

    def observation(self, state: Any, rng: Any, params: Any = None) -> torch.Tensor:
        return super().observation(state, rng) + rng.uniform(1)


def test_restarts_of_some_rows_leave_the_noise_of_the_others_alone() -> None:
    batch = FunctionalVectorEnv(7, Noisy)
    singles = [FunctionalVectorEnv(1, Noisy) for _ in range(7)]
    batch.reset(seed=3)
    for i, single in enumerate(singles):
        single.reset(seed=3 + i)
    alone = 0
    for _ in range(20):
        obs, _, ended, _, _ = batch.step(torch.zeros(7, dtype=torch.int64))
        alone += int(ended.any()) * int((~ended).any())
        for i, single in enumerate(singles):
            assert torch.equal(obs[i : i + 1], single.step(torch.zeros(1, dtype=torch.int64))[0])
    assert alone > 5  # steps at which some rows, not all, began anew


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.filterwarnings("ignore")
def test_environment_checkers_pass(variant: str) -> None:
    from stable_baselines3.common.env_checker import check_env as check_sb3

    id, kwargs = split(variant)
    check_env(gymnasium.make(id, **kwargs).unwrapped, skip_render_check=True)
    check_sb3(gymnasium.make(id, **kwargs))


@pytest.mark.parametrize("id", functional_ids())
def test_renders_a_picture_or_text(id: str) -> None:
    modes = gymnasium.make(id).metadata["render_modes"]
    assert modes
    for mode in modes:
        env = gymnasium.make(id, render_mode=mode)
        env.reset(seed=0)
        frame = env.render()
        if mode == "ansi":
            assert isinstance(frame, str) and frame.strip()
        else:
            assert frame.dtype == np.uint8 and frame.shape[2] == 3
            assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 2
        envs = gymnasium.make_vec(id, num_envs=2, render_mode=mode)
        envs.reset(seed=0)
        np.testing.assert_array_equal(envs.render()[0], frame)


@pytest.mark.parametrize("id", functional_ids())
def test_a_step_runs_on_the_meta_device(id: str) -> None:
    """Reading a value, or a tensor of another device, would raise."""
    for mode in AutoresetMode:
        envs = gymnasium.make_vec(id, num_envs=3, device="meta", autoreset_mode=mode)
        envs.reset(seed=0)
        action = torch.as_tensor(envs.action_space.sample()).to("meta")
        arrays = torch.utils._pytree.tree_leaves(envs.step(action))
        assert {x.device.type for x in arrays} == {"meta"}


@pytest.mark.parametrize("id", functional_ids())
def test_a_step_stays_on_a_device_that_is_not_the_cpu(id: str) -> None:
    """Fake tensors of another device: mixing in a CPU tensor raises, which meta may let pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    for mode in AutoresetMode:
        gymnasium.make_vec(id, num_envs=1)  # what dynamics cache must not be a fake
        with FakeTensorMode(allow_non_fake_inputs=True):
            envs = gymnasium.make_vec(
                id, num_envs=3, device=FAKE, autoreset_mode=mode, max_episode_steps=5
            )
            obs, _ = envs.reset(seed=[3, 4, 5])
            space = envs.single_action_space
            dtype = torch.int64 if space.dtype == np.int64 else torch.float32
            action = torch.zeros((3, *space.shape), dtype=dtype, device=FAKE)
            obs, reward, terminated, truncated, info = envs.step(action)
            envs.reset(options={"reset_mask": terminated | truncated})
            arrays = torch.utils._pytree.tree_leaves([obs, reward, terminated, truncated, info])
            assert {str(x.device) for x in arrays} == {FAKE}


@pytest.mark.parametrize("device", ["meta", FAKE])
@pytest.mark.parametrize("fault", ["item", "mask", "constant", "table"])
def test_the_device_checks_can_fail(device: str, fault: str) -> None:
    from contextlib import nullcontext

    from torch._subclasses.fake_tensor import FakeTensorMode

    class Faulty(ScriptedFunc):
        def reward(self, state, action, next_state, rng, params=None):
            k = next_state.k.to(torch.float32)
            if fault == "item":
                return k * k.max().item()
            if fault == "mask":
                return k - k[k > 1].sum()
            if fault == "table":
                return torch.arange(10.0)[next_state.k]
            return k + torch.tensor([1.0, 2.0, 3.0])

    if (device, fault) == ("meta", "table"):
        pytest.skip("the meta device lets this one pass: what fake tensors are for")
    with nullcontext() if device == "meta" else FakeTensorMode():
        envs = FunctionalVectorEnv(3, Faulty, device=device)
        envs.reset(seed=0)
        with pytest.raises((RuntimeError, NotImplementedError)):
            envs.step(torch.zeros(3, dtype=torch.int64, device=device))


def test_seeding() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=3)
    first, _ = envs.reset(seed=5)
    second, _ = envs.reset()
    again, _ = envs.reset(seed=[5, 6, 7])
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert torch.equal(envs.reset()[0], second)
    shifted, _ = envs.reset(seed=6)
    assert torch.equal(shifted[:2], first[1:])
    with pytest.raises(ValueError, match="2 seeds for 3 environments"):
        envs.reset(seed=[1, 2])
    unseeded = [gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=3) for _ in range(2)]
    assert not torch.equal(unseeded[0].reset()[0], unseeded[1].reset()[0])


def test_a_single_environment_continues_its_episodes_and_starts_them_anew() -> None:
    env = gymnasium.make("rewardzoo/CartPole-v0")
    starts = [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(3))]
    assert len({tuple(start) for start in starts}) == 4
    again = [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(3))]
    np.testing.assert_array_equal(starts, again)
    starts[0][:] = 9.0  # what was returned is the user's: the environment keeps none of it
    env.reset(seed=5)
    assert env.unwrapped.state.x.abs() < 0.05


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_reset_mask_begins_the_next_episode_of_its_rows_only(kind: Any) -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=3, autoreset_mode="DISABLED")
    envs.reset(seed=5)
    before, *_ = envs.step(torch.tensor([0, 1, 0]))
    after, _ = envs.reset(options={"reset_mask": kind([False, True, False])})
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    single = gymnasium.make("rewardzoo/CartPole-v0")
    single.reset(seed=6)
    np.testing.assert_array_equal(after[1].numpy(), single.reset()[0])
    _, _, _, _, info = envs.step(torch.tensor([0, 1, 0]))
    assert info["episode"]["l"].tolist() == [2, 1, 2]
    assert info["episode"]["r"].tolist() == [2.0, 1.0, 2.0]
    seeded, _ = envs.reset(seed=[1, 2, 3], options={"reset_mask": kind([False, False, True])})
    np.testing.assert_array_equal(seeded[2].numpy(), single.reset(seed=3)[0])
    following, _ = envs.reset()
    single.reset(seed=6)
    single.reset()
    np.testing.assert_array_equal(following[1].numpy(), single.reset()[0])  # its seed stayed


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episode_statistics_are_the_sums_of_the_episode(mode: AutoresetMode) -> None:
    envs = gymnasium.make_vec(
        "rewardzoo/Pendulum-v0", num_envs=4, max_episode_steps=9, autoreset_mode=mode
    )
    envs.reset(seed=0)
    sums, length, dead, ended = torch.zeros(4), 0, False, 0
    for action in actions(envs, 40):
        _, reward, terminated, truncated, info = envs.step(action)
        assert torch.equal(info["_episode"], terminated | truncated)
        assert torch.equal(info["objective"], reward)
        if dead:  # the step that only resets
            assert not bool(reward.any() or truncated.any())
            sums, length, dead = torch.zeros(4), 0, False
            continue
        sums, length = sums + reward, length + 1
        torch.testing.assert_close(info["episode"]["r"], sums)
        torch.testing.assert_close(info["episode"]["objective"], sums)
        assert info["episode"]["l"].tolist() == [length] * 4
        assert bool(truncated.all()) == (length == 9)
        if length == 9:
            ended += 1
            dead = mode is AutoresetMode.NEXT_STEP
            if mode is AutoresetMode.DISABLED:
                envs.reset(options={"reset_mask": truncated})
            if not dead:
                sums, length = torch.zeros(4), 0
    assert ended >= 3


@pytest.mark.parametrize("id", functional_ids())
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
        torch.testing.assert_close(other.step(action)[:4], want, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="another num_envs"):
        gymnasium.make_vec(id, num_envs=4).load_state_dict(saved)


@pytest.mark.parametrize("id", functional_ids())
def test_a_pickled_single_environment_goes_on_the_same(id: str) -> None:
    env = gymnasium.make(id)
    env.reset(seed=3)
    twin = pickle.loads(pickle.dumps(env))
    env.action_space.seed(0)
    for _ in range(10):
        action = env.action_space.sample()
        a, b = env.step(action), twin.step(action)
        assert data_equivalence(a[0], b[0]) and a[1:4] == b[1:4]
        if a[2]:
            assert data_equivalence(env.reset()[0], twin.reset()[0])


@pytest.mark.parametrize("id", ["rewardzoo/CartPole-v0", "rewardzoo/SepsisICU-v0"])
def test_compiled_single_step_agrees(id: str) -> None:
    plain, fused = gymnasium.make(id), gymnasium.make(id, compile=True)
    plain.action_space.seed(0)
    np.testing.assert_array_equal(fused.reset(seed=5)[0], plain.reset(seed=5)[0])
    ends = 0
    for _ in range(200):
        action = plain.action_space.sample()
        a, b = plain.step(action), fused.step(action)
        np.testing.assert_allclose(b[0], a[0], rtol=1e-5, atol=1e-6)
        assert a[1:4] == b[1:4] and type(a[0]) is type(b[0]) and a[4].keys() == b[4].keys()
        if a[2] or a[3]:
            ends += 1
            np.testing.assert_array_equal(fused.reset()[0], plain.reset()[0])
    assert ends > 3


def test_compiled_step_agrees() -> None:
    plain = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=16)
    fused = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=16, compile=True)
    torch.testing.assert_close(fused.reset(seed=0)[0], plain.reset(seed=0)[0])
    for action in actions(plain, 60):
        a, b = plain.step(action), fused.step(action)
        torch.testing.assert_close(b[0], a[0])
        assert torch.equal(a[2], b[2])
    # Compiled code trusts its inputs: other dtypes and strides must not be misread.
    action = actions(plain, 1)[0]
    for same in (action.to(torch.int32), torch.stack([action, 1 - action], 1)[:, 0]):
        torch.testing.assert_close(fused.step(same)[0], plain.step(same)[0])
    for envs in (plain, fused):
        with pytest.raises(ValueError, match=r"actions: shape \(3,\), expected \(16,\)"):
            envs.step(action[:3])


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_without_synchronising() -> None:
    for variant in VARIANTS:
        id, kwargs = split(variant)
        here = gymnasium.make_vec(id, num_envs=32, **kwargs)
        there = gymnasium.make_vec(id, num_envs=32, device="cuda", **kwargs)
        torch.testing.assert_close(there.reset(seed=0)[0].cpu(), here.reset(seed=0)[0])
        for action in actions(here, 20):
            moved = action.cuda()
            torch.cuda.set_sync_debug_mode("error")
            try:
                found = there.step(moved)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            for a, b in zip(found[:4], here.step(action)[:4], strict=True):
                torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_says_so() -> None:
    with pytest.raises(ValueError, match="sees no CUDA device"):
        gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2, device="cuda")


def test_misuse_is_told() -> None:
    envs = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2, autoreset_mode="DISABLED")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(torch.zeros(2, dtype=torch.int64))
    envs.reset(seed=0)
    for mask in (torch.ones(3, dtype=torch.bool), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"reset_mask'\]: .* expected \(2,\) bool"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(gymnasium.error.ResetNeeded, match="autoreset is disabled"):
        for _ in range(100):
            envs.step(torch.zeros(2, dtype=torch.int64))
    single = gymnasium.make("rewardzoo/CartPole-v0").unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        single.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make("rewardzoo/CartPole-v0", render_mode="rgb_array").unwrapped.render()
    fresh = gymnasium.make_vec("rewardzoo/CartPole-v0", num_envs=2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="cannot have a reset_mask"):
        fresh.reset(options={"reset_mask": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(gymnasium.error.ResetNeeded):
        fresh.state_dict()


def test_module_qualified_id_works_in_spawned_workers() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        obs = pool.apply(first_observation)
    want, _ = gymnasium.make("rewardzoo/CartPole-v0").reset(seed=1)
    np.testing.assert_array_equal(obs, want)


def test_gymnasiums_own_vector_environments_take_our_single_ones() -> None:
    """Async with spawned workers, and sync: the rows of our batch."""
    id = "rewardzoo:rewardzoo/CartPole-v0"
    ours = gymnasium.make_vec(id, num_envs=2)
    assert isinstance(ours, FunctionalVectorEnv)
    first, _ = ours.reset(seed=3)
    second, *_ = ours.step(torch.tensor([0, 1]))
    for mode, kwargs in (("async", {"context": "spawn"}), ("sync", {})):
        envs = gymnasium.make_vec(id, num_envs=2, vectorization_mode=mode, vector_kwargs=kwargs)
        try:
            np.testing.assert_array_equal(envs.reset(seed=3)[0], first.numpy())
            np.testing.assert_array_equal(envs.step(np.array([0, 1]))[0], second.numpy())
        finally:
            envs.close()


def test_every_environment_documents_itself() -> None:
    for id in functional_ids():
        dynamics = gymnasium.make(id).unwrapped.func
        assert isinstance(dynamics, FuncEnv)
        for heading in ("Observation:", "Action:", "Objective:", "Start state:", "End of episode:",
                        "Reference returns:", "Paper:"):  # fmt: skip
            assert heading in (type(dynamics).__doc__ or ""), (id, heading)
