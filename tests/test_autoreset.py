"""StepTracker: the same transitions come out of all three autoreset modes, stock envs and ours."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rewardzoo.autoreset import StepTracker, final_obs
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.registration import functional_ids
from rewardzoo.testing.scripted import ScriptedEnv, ScriptedFunc, scripted_envs
from rewardzoo.transition import Transition, to_torch

CPU = torch.device("cpu")
MODES = list(AutoresetMode)
ENDS = [("terminated",), ("truncated",), ("truncated", "terminated")]
N = 5


def drive(envs: VectorEnv, actions: Any, steps: int) -> list[tuple[Transition, StepTracker]]:
    """``steps`` transitions, ended rows reset by hand where autoreset is disabled."""
    tracker = StepTracker(envs, CPU)
    obs, _ = envs.reset(seed=0)
    tracker.reset(obs)
    seen = []
    for step in range(steps):
        action = actions(step, tracker)
        t = tracker.step(action, *envs.step(action))
        seen.append((t, tracker))
        if tracker.mode is AutoresetMode.DISABLED and bool(tracker.done.any()):
            mask = tracker.done.clone()
            options = {"reset_mask": mask if isinstance(obs, torch.Tensor) else mask.numpy()}
            obs, _ = envs.reset(options=dict(options))
            tracker.reset(obs, options)
    return seen


def row_of(x: Any, i: int) -> Any:
    if isinstance(x, dict):
        return {k: row_of(v, i) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(row_of(v, i) for v in x)
    return x[i].tolist()


def rows(seen: list[tuple[Transition, StepTracker]], num_envs: int) -> list[list[tuple]]:
    """What each row lived through: its valid steps, in order."""
    return [
        [
            (
                row_of(t.obs, i),
                row_of(t.action, i),
                row_of(t.next_obs, i),
                t.reward[i].item(),
                t.terminated[i].item(),
                t.truncated[i].item(),
                t.episode_step[i].item(),
            )
            for t, _ in seen
            if bool(t.valid[i])
        ]
        for i in range(num_envs)
    ]


def by_hand(i: int, ends: tuple[str, ...], observation: str, steps: int) -> list[tuple]:
    """Row ``i`` of ``scripted_envs``: the reference, from the single environment."""
    env = ScriptedEnv((2 + i % 3, 4), ends, observation)
    listed = lambda obs: row_of(torch.utils._pytree.tree_map(lambda x: np.array([x]), obs), 0)  # noqa: E731
    lived, k = [], 0
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        following, reward, terminated, truncated, _ = env.step(0)
        lived.append((listed(obs), 0, listed(following), reward, terminated, truncated, k))
        obs, k = following, k + 1
        if terminated or truncated:
            (obs, _), k = env.reset(), 0
    return lived


@pytest.mark.parametrize("observation", ["box", "discrete", "dict", "tuple"])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("mode", MODES)
def test_stock_envs_give_what_the_single_environments_live_through(
    mode: AutoresetMode, ends: tuple[str, ...], observation: str
) -> None:
    envs = scripted_envs(N, mode, ends, observation)
    got = rows(drive(envs, lambda *_: np.zeros(N, dtype=np.int64), 25), N)
    for i in range(N):
        assert len(got[i]) >= 18  # dead steps are left out, and nothing else is
        assert got[i] == by_hand(i, ends, observation, len(got[i]))


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("dynamics", [ScriptedFunc, *functional_ids()])
def test_our_envs_give_the_same_transitions_in_all_modes(dynamics: Any, limit: int | None) -> None:
    def make(mode: AutoresetMode) -> VectorEnv:
        if isinstance(dynamics, str):
            limits = {} if limit is None else {"max_episode_steps": limit}
            return gymnasium.make_vec(dynamics, num_envs=N, autoreset_mode=mode, **limits)
        return FunctionalVectorEnv(N, dynamics, max_episode_steps=limit, autoreset_mode=mode)

    single = make(MODES[0]).single_action_space
    single.seed(3)
    plan = [[single.sample() for _ in range(40)] for _ in range(N)]
    lived = []
    for mode in MODES:
        counts = [-1] * N

        def actions(step: int, tracker: StepTracker, counts: list[int] = counts) -> torch.Tensor:
            # Each row takes its next planned action, but not on its dead step.
            dead = tracker.done.tolist() if tracker.mode is AutoresetMode.NEXT_STEP else [False] * N
            for i in range(N):
                counts[i] += not dead[i]
            return torch.as_tensor(np.array([plan[i][counts[i]] for i in range(N)]))

        lived.append(rows(drive(make(mode), actions, 40), N))
    for i in range(N):
        shortest = min(len(one[i]) for one in lived)
        assert shortest >= 20
        assert lived[0][i][:shortest] == lived[1][i][:shortest] == lived[2][i][:shortest]


@pytest.mark.parametrize("mode", MODES)
def test_tracker_says_what_began_what_ended_and_how_long_it_was(mode: AutoresetMode) -> None:
    envs = scripted_envs(3, mode)  # rows' episodes last 2, 4, 2, 4 ...; 3, 4, ...; 4, 4, ...
    tracker = StepTracker(envs, CPU)
    obs, _ = envs.reset(seed=0)
    tracker.reset(obs)
    assert tracker.began.tolist() == [True] * 3 and tracker.steps.tolist() == [0] * 3
    ends = []
    for step in range(1, 12):
        t = tracker.step(np.zeros(3, np.int64), *envs.step(np.zeros(3, np.int64)))
        done = t.done.tolist()
        assert tracker.done.tolist() == done
        ends += [(i, step, int(tracker.steps[i])) for i in range(3) if done[i]]
        if mode is AutoresetMode.SAME_STEP:
            assert tracker.began.tolist() == done
            assert not tracker.some_dead and tracker.always_valid
        if mode is AutoresetMode.NEXT_STEP:
            assert tracker.began.tolist() == t.valid.logical_not().tolist()
            assert not bool((t.reward * ~t.valid).any()) and not tracker.always_valid
        if mode is AutoresetMode.DISABLED and any(done):
            options = {"reset_mask": t.done.numpy()}
            obs, _ = envs.reset(options=dict(options))
            tracker.reset(obs, options)
            assert tracker.began.tolist() == done and not bool(tracker.done.any())
    gap = 1 if mode is AutoresetMode.NEXT_STEP else 0  # a dead step between episodes
    assert [e for e in ends if e[0] == 0] == [(0, 2, 2), (0, 6 + gap, 4), (0, 8 + 2 * gap, 2)]
    assert [e for e in ends if e[0] == 2] == [(2, 4, 4), (2, 8 + gap, 4)]


@pytest.mark.parametrize("mode", MODES)
def test_saved_and_loaded_tracker_goes_on_the_same(mode: AutoresetMode) -> None:
    def make() -> VectorEnv:
        return FunctionalVectorEnv(4, ScriptedFunc, autoreset_mode=mode)

    for stop in range(1, 8):
        envs, tracker = make(), StepTracker(make(), CPU)
        obs, _ = envs.reset(seed=1)
        tracker.reset(obs)
        other = StepTracker(make(), CPU)
        for step in range(16):
            action = torch.zeros(4, dtype=torch.int64)
            raw = envs.step(action)
            t = tracker.step(action, *raw)
            if step >= stop:
                assert rows([(t, tracker)], 4) == rows([(other.step(action, *raw), other)], 4)
                assert torch.equal(other.began, tracker.began)
            if mode is AutoresetMode.DISABLED and bool(t.done.any()):
                options = {"reset_mask": t.done}
                obs, _ = envs.reset(options=dict(options))
                tracker.reset(obs, options)
                if step >= stop:
                    other.reset(obs, options)
            if step == stop - 1:
                other.load_state_dict(tracker.state_dict())


def test_transitions_survive_the_engine_reusing_its_buffer() -> None:
    envs = SyncVectorEnv([ScriptedEnv] * 2, copy=False)
    seen = drive(envs, lambda *_: np.zeros(2, dtype=np.int64), 3)
    assert [t.next_obs[0].tolist() for t, _ in seen] == [[0, 1], [0, 2], [0, 3]]


def test_final_obs_reads_every_form() -> None:
    obs, mask = torch.zeros(3, 2), np.array([False, True, False])
    last = np.array([None, np.ones(2, np.float32), None], dtype=object)
    want = [[0, 0], [1, 1], [0, 0]]
    assert final_obs(obs, {"final_obs": last, "_final_obs": mask}, to_torch).tolist() == want
    dense = torch.tensor(want)
    assert final_obs(obs, {"final_obs": dense, "_final_obs": mask}, to_torch) is dense
    array = np.array([[7, 7], [1, 1], [7, 7]], np.float32)
    assert final_obs(obs, {"final_obs": array, "_final_obs": mask}, to_torch).tolist() == want
    nested = {"x": array, "_x": mask}
    got = final_obs({"x": obs}, {"final_obs": nested, "_final_obs": mask}, to_torch)
    assert got["x"].tolist() == want
    assert not bool(obs.any())


def test_an_environment_that_does_not_tell_its_mode_is_refused() -> None:
    envs = scripted_envs(2, AutoresetMode.SAME_STEP)
    envs.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode'] is None: expected"):
        StepTracker(envs, CPU)
