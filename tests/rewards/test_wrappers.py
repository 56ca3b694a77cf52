"""The reward wrappers, in every autoreset mode, against numbers known beforehand."""

from __future__ import annotations

import gc

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rewardzoo import RewardFunction, RewardWrapper, VectorRewardWrapper
from rewardzoo.autoreset import StepTracker
from rewardzoo.functional_single import FunctionalEnv
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards import (
    AppendRewardState,
    Delay,
    RewardError,
    VectorAppendRewardState,
    env_reward,
    make_reward,
)
from rewardzoo.testing.scripted import ScriptedEnv, ScriptedFunc, scripted_envs

MODES = list(AutoresetMode)
ENDS = [("terminated",), ("truncated",), ("terminated", "truncated")]


class Probe(RewardFunction):
    """Pays a number that tells all that a row was shown."""

    markov = False

    def bind(self, num_envs, device, spaces):
        self.count = torch.zeros(num_envs, device=device)

    def reset(self, mask, obs):
        self.count = torch.where(mask, 0.0, self.count)

    def __call__(self, t):
        now, then = step_of(t.obs), step_of(t.next_obs)
        paid = now + 10 * then + 100 * self.count + 1000 * t.terminated + 2000 * t.truncated
        paid = paid + 10000 * t.episode_step
        self.count = torch.where(t.valid, self.count + 1, self.count)
        return paid.to(torch.float32)


def step_of(obs):
    if isinstance(obs, dict):
        assert torch.equal(obs["x"][:, 1].long(), obs["n"])
        return obs["n"]
    if isinstance(obs, tuple):
        assert torch.equal(obs[1][:, 1].long(), obs[0])
        return obs[0]
    return obs[:, -1] if obs.ndim == 2 else obs


def probe(k, end):
    """What Probe pays for step ``k``, counted from 1."""
    flags = {"": 0, "terminated": 1000, "truncated": 2000}[end]
    return (k - 1) + 10 * k + 100 * (k - 1) + flags + 10000 * (k - 1)


def script(row, ends, steps):
    """(episode, step, end) of a row's first valid steps."""
    lengths, out, e = (2 + row % 3, 4), [], 0
    while len(out) < steps:
        for k in range(1, lengths[e % 2] + 1):
            out.append((e, k, ends[e % len(ends)] if k == lengths[e % 2] else ""))
        e += 1
    return out[:steps]


def play(envs, steps, check):
    """Step ``steps`` times; ``check(row, index of the row's valid step or None, outputs)``."""
    mode = envs.metadata["autoreset_mode"]
    n = envs.num_envs
    tensors = isinstance(envs.reset(seed=0)[0], torch.Tensor)
    over, count = np.zeros(n, bool), np.zeros(n, int)
    for _ in range(steps):
        action = np.zeros(n, np.int64)
        out = envs.step(torch.from_numpy(action) if tensors else action)
        done = np.asarray(out[2]) | np.asarray(out[3])
        for i in range(n):
            dead = mode is AutoresetMode.NEXT_STEP and over[i]
            check(i, None if dead else count[i], out)
            count[i] += not dead
        over = done
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": torch.from_numpy(done) if tensors else done})
    assert (count >= 12).all()


@pytest.mark.parametrize("observation", ["box", "discrete", "dict", "tuple"])
@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("mode", MODES)
def test_stock_vector_env_pays_every_valid_step_and_no_dead_one(mode, ends, num_envs, observation):
    envs = VectorRewardWrapper(scripted_envs(num_envs, mode, ends, observation), Probe())
    sums = np.zeros((num_envs, 2))

    def check(i, step, out):
        _, reward, _, _, info = out
        if step is None:
            assert reward[i] == 0 and info["objective"][i] == 0 and not info["_episode"][i]
            return
        e, k, end = script(i, ends, step + 1)[step]
        assert reward[i] == probe(k, end)
        assert info["objective"][i] == 10 * e + k
        sums[i] += reward[i], 10 * e + k
        assert bool(info["_episode"][i]) == bool(end)
        if end:
            episode = {name: value[i] for name, value in info["episode"].items()}
            assert episode == {"r": sums[i, 0], "objective": sums[i, 1], "l": k}
            sums[i] = 0

    play(envs, 30, check)


@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("mode", MODES)
def test_functional_env_pays_every_valid_step_and_no_dead_one(mode, limit, num_envs):
    inner = FunctionalVectorEnv(
        num_envs, ScriptedFunc, max_episode_steps=limit, autoreset_mode=mode
    )
    envs = VectorRewardWrapper(inner, Probe())
    rows = []
    for i in range(num_envs):
        env = FunctionalEnv(ScriptedFunc)
        if limit:
            env = gymnasium.wrappers.TimeLimit(env, limit)
        rows.append(single_rows(RewardWrapper(env, Probe()), 40, seed=i))

    def check(i, step, out):
        _, reward, _, _, info = out
        if step is None:
            assert reward[i] == 0 and info["objective"][i] == 0
            return
        paid, objective, episode = rows[i][step]
        assert float(reward[i]) == paid and float(info["objective"][i]) == objective
        assert bool(info["_episode"][i]) == (episode is not None)
        if episode is not None:
            assert {k: float(v[i]) for k, v in info["episode"].items()} == episode

    play(envs, 30, check)


def single_rows(env, steps, seed):
    env.reset(seed=seed)
    rows = []
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(0)
        rows.append((reward, info["objective"], info.get("episode")))
        if terminated or truncated:
            env.reset()
    return rows


@pytest.mark.parametrize("observation", ["box", "discrete", "dict", "tuple"])
@pytest.mark.parametrize("ends", ENDS)
def test_single_wrapper_pays_what_a_row_of_the_vector_wrapper_is_paid(ends, observation):
    for row in range(3):
        env = RewardWrapper(ScriptedEnv((2 + row % 3, 4), ends, observation), Probe())
        for (e, k, end), (paid, objective, episode) in zip(
            script(row, ends, 20), single_rows(env, 20, seed=0), strict=True
        ):
            assert paid == probe(k, end) and objective == 10 * e + k
            assert (episode is not None) == bool(end)
            if end:
                assert episode["l"] == k and episode["objective"] == 10 * e * k + k * (k + 1) / 2


@pytest.mark.parametrize("mode", MODES)
def test_partial_reset_of_a_stock_env_keeps_the_memory_of_other_rows(mode):
    envs = VectorRewardWrapper(scripted_envs(2, AutoresetMode.DISABLED), Probe())
    envs.reset(seed=0)
    _, _, terminated, truncated, _ = envs.step([0, 0])
    _, _, terminated, truncated, _ = envs.step([0, 0])  # row 0 ends, row 1 does not
    options = {"reset_mask": terminated | truncated}
    envs.reset(options=options)
    assert "reset_mask" in options, "Gymnasium takes the mask out of its argument; ours must not"
    assert envs.reward_function.count.tolist() == [0, 2]
    assert envs.step([0, 0])[1].tolist() == [probe(1, ""), probe(3, "terminated")]


@pytest.mark.parametrize("mode", MODES)
def test_nested_wrappers_keep_the_objective_and_hand_on_the_inner_reward(mode):
    inner = VectorRewardWrapper(scripted_envs(3, mode), env_reward * 2.0)
    envs = VectorRewardWrapper(inner, env_reward * 3.0)

    def check(i, step, out):
        if step is not None:
            e, k, end = script(i, ("terminated",), step + 1)[step]
            assert out[1][i] == 6 * (10 * e + k) and out[4]["objective"][i] == 10 * e + k
            if end:
                total = 10 * e * k + k * (k + 1) / 2
                assert out[4]["episode"]["objective"][i] == total
                assert out[4]["episode"]["r"][i] == 6 * total

    play(envs, 30, check)


@pytest.mark.parametrize("mode", MODES)
def test_stock_vector_env_of_wrapped_single_envs_keeps_the_objective_of_the_last_step(mode):
    # Gymnasium moves the last step's info to info["final_info"] under SAME_STEP.
    def make(i):
        return lambda: RewardWrapper(ScriptedEnv((2 + i, 4)), env_reward * 2.0)

    inner = SyncVectorEnv([make(i) for i in range(3)], autoreset_mode=mode)
    envs = VectorRewardWrapper(inner, env_reward * 3.0)

    def check(i, step, out):
        if step is not None:
            e, k, _ = script(i, ("terminated",), step + 1)[step]
            assert out[4]["objective"][i] == 10 * e + k and out[1][i] == 6 * (10 * e + k)

    play(envs, 30, check)


@pytest.mark.parametrize("mode", MODES)
def test_terms_add_up_to_the_reward(mode):
    class One(RewardFunction):
        """Pays dead rows too, which only the wrapper can undo."""

        def __call__(self, t):
            return torch.ones_like(t.reward)

    fn = env_reward + 0.5 * make_reward("delay(objective, 2)") - One()
    envs = VectorRewardWrapper(scripted_envs(3, mode), fn)

    def check(i, step, out):
        terms = out[4]["reward_terms"]
        assert list(terms) == ["objective", "delay(objective)", "one"]
        assert sum(v[i] for v in terms.values()) == out[1][i]

    play(envs, 30, check)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("functional", [False, True])
def test_saved_and_loaded_wrapper_continues_as_if_never_stopped(mode, functional):
    def make():
        inner = FunctionalVectorEnv(4, ScriptedFunc, autoreset_mode=mode)
        return VectorRewardWrapper(inner, env_reward + Delay(env_reward, 3) + Probe())

    def step(envs):
        _, reward, terminated, truncated, info = envs.step(torch.zeros(4, dtype=torch.int64))
        done = terminated | truncated
        if mode is AutoresetMode.DISABLED and done.any():
            envs.reset(options={"reset_mask": done})
        return reward, info["episode"]["r"], info["episode"]["objective"], info["episode"]["l"]

    envs = make()
    envs.reset(seed=1)
    for cut in range(9):
        state = envs.state_dict()
        other = make()
        other.load_state_dict(state)
        want = [step(envs)]
        got = [step(other)]
        for a, b in zip(want, got, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y), cut


def test_an_env_that_cannot_save_says_so():
    envs = VectorRewardWrapper(scripted_envs(1, AutoresetMode.SAME_STEP), env_reward)
    with pytest.raises(RuntimeError, match="cannot save its state"):
        envs.state_dict()


class Wrong(RewardFunction):
    def __init__(self, make):
        self.make = make

    def __call__(self, t):
        return self.make(t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.reward.unsqueeze(1), r"wrong: returned shape \(2, 1\), expected \(2,\)"),
        (lambda t: t.reward.sum(), r"wrong: returned shape \(\), expected \(2,\)"),
        (lambda t: 1.0, "wrong: returned float, expected a tensor"),
        (lambda t: t.reward.to("meta"), "returned a tensor on meta, expected cpu; create"),
        (lambda t: t.reward / torch.tensor([1.0, 0.0]), "wrong: paid inf in row 1, expected a fin"),
        (lambda t: t.reward * float("nan"), "wrong: paid nan in row 0"),
    ],
)
def test_wrong_reward_raises_one_line_that_names_it(make, message):
    envs = VectorRewardWrapper(scripted_envs(2, AutoresetMode.SAME_STEP), Wrong(make))
    envs.reset(seed=0)
    with pytest.raises(RewardError, match=message) as caught:
        envs.step([0, 0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.info["sofaa"], "KeyError: 'sofaa' .*; info has seen; obs has n, x$"),
        (lambda t: t.obs["y"], "KeyError: 'y' .*; obs has n, x$"),
        (lambda t: t.rewards, "AttributeError: .*rewards"),
        (lambda t: t.reward + torch.zeros(3), "RuntimeError: The size of tensor"),
        (lambda t: torch.nn.functional.one_hot(t.reward), "RuntimeError: .*LongTensor"),
    ],
)
def test_a_reward_function_s_own_error_names_it_and_its_line(make, message):
    """Also inside a sum, and never with what only measuring may read."""
    envs = scripted_envs(2, AutoresetMode.SAME_STEP, observation="dict")
    step = envs.step
    envs.step = lambda actions: (*step(actions)[:4], {"seen": np.ones(2), "objective": np.ones(2)})
    envs = VectorRewardWrapper(envs, 2.0 * Wrong(make))
    envs.reset(seed=0)
    line = make.__code__.co_firstlineno
    with pytest.raises(RewardError, match=message) as caught:
        envs.step([0, 0])
    assert f"(test_wrappers.py, line {line})" in str(caught.value)
    assert "wrong: " in str(caught.value) and "\n" not in str(caught.value)
    assert "objective" not in str(caught.value) and caught.value.__cause__ is not None


def test_non_finite_term_of_a_sum_is_named():
    fn = env_reward + Wrong(lambda t: t.reward * float("inf"))
    envs = VectorRewardWrapper(scripted_envs(2, AutoresetMode.SAME_STEP), fn)
    envs.reset(seed=0)
    with pytest.raises(RewardError, match="reward function wrong: paid inf in row 0"):
        envs.step([0, 0])


def test_rewards_that_overflow_a_sum_of_squares_are_paid():
    big = Wrong(lambda t: torch.full_like(t.reward, 3e38))
    envs = VectorRewardWrapper(scripted_envs(2, AutoresetMode.SAME_STEP), big)
    envs.reset(seed=0)
    assert envs.step([0, 0])[1].tolist() == [np.float32(3e38)] * 2


def test_wrapping_the_wrong_thing_is_refused():
    many = scripted_envs(1, AutoresetMode.SAME_STEP)
    for wrapper, env in ((RewardWrapper, ScriptedEnv()), (VectorRewardWrapper, many)):
        with pytest.raises(TypeError, match="expected a RewardFunction"):
            wrapper(env, lambda t: t.reward)
    with pytest.raises(TypeError, match="RewardWrapper takes a single one"):
        VectorRewardWrapper(ScriptedEnv(), env_reward)
    with pytest.raises(TypeError, match="VectorRewardWrapper takes many"):
        RewardWrapper(many, env_reward)


# ---- StepTracker ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_loaded_tracker_says_which_episodes_begin_next(mode):
    envs = FunctionalVectorEnv(8, ScriptedFunc, autoreset_mode=mode)
    tracker = StepTracker(envs, torch.device("cpu"))
    tracker.reset(envs.reset(seed=0)[0])
    action = torch.zeros(8, dtype=torch.int64)
    for _ in range(12):
        other = StepTracker(envs, torch.device("cpu"))
        other.load_state_dict(tracker.state_dict())
        assert torch.equal(other.began, tracker.began) and torch.equal(other.obs, tracker.obs)
        t = tracker.step(action, *envs.step(action))
        if mode is AutoresetMode.DISABLED and t.done.any():
            options = {"reset_mask": t.done}
            tracker.reset(envs.reset(options=options)[0], options)


# ---- AppendRewardState ---------------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["box", "discrete", "dict"])
@pytest.mark.parametrize("mode", MODES)
def test_appended_memory_is_that_of_the_row_in_every_mode(mode, observation):
    inner = scripted_envs(3, mode, ("terminated", "truncated"), observation)
    envs = VectorAppendRewardState(VectorRewardWrapper(inner, Delay(env_reward, 3)))
    singles = [
        AppendRewardState(
            RewardWrapper(
                ScriptedEnv((2 + i, 4), ("terminated", "truncated"), observation),
                Delay(env_reward, 3),
            )
        )
        for i in range(3)
    ]
    assert envs.single_observation_space == singles[0].observation_space

    def same(batch, i, row):
        if isinstance(row, dict):
            return all(same(batch[k], i, row[k]) for k in row)
        return np.array_equal(np.asarray(batch)[i], row)

    first, _ = envs.reset(seed=0)
    rows = [env.reset(seed=0)[0] for env in singles]
    assert all(same(first, i, row) for i, row in enumerate(rows))
    assert envs.single_observation_space.contains(rows[0])

    def check(i, step, out):
        obs, _, _, _, info = out
        if step is None:
            row, _ = singles[i].reset()
            assert same(obs, i, row)
            return
        row, _, terminated, truncated, _ = singles[i].step(0)
        done = terminated or truncated
        if mode is AutoresetMode.SAME_STEP and done:
            assert same(info["final_obs"], i, row) and info["_final_obs"][i]
            row, _ = singles[i].reset()
        assert same(obs, i, row)
        if mode is AutoresetMode.DISABLED and done:
            singles[i].reset()

    play(envs, 30, check)


def test_appending_without_memory_is_refused():
    with pytest.raises(ValueError, match="objective: has no memory"):
        AppendRewardState(RewardWrapper(ScriptedEnv(), env_reward))


def test_a_wrapper_that_is_let_go_or_fails_closes_no_environment():
    class Refuses(RewardFunction):
        def bind(self, num_envs, device, spaces):
            raise ValueError("not here")

        def __call__(self, t):
            return t.reward

    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    VectorRewardWrapper(envs, env_reward)
    with pytest.raises(ValueError, match="not here"):
        VectorRewardWrapper(envs, Refuses())
    gc.collect()
    assert not envs.closed
    VectorRewardWrapper(envs, env_reward).close()
    assert envs.closed
