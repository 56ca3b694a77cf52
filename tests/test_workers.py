"""Worker processes: rows stay what single worlds are, and a worker's death costs an episode."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rewardzoo.agents.ppo import PPO
from rewardzoo.autoreset import StepTracker
from rewardzoo.engines import GymnasiumEngine, leaves, own_buffers, tree
from rewardzoo.rewards.base import RewardFunction, env_reward
from rewardzoo.rewards.wrappers import VectorRewardWrapper
from rewardzoo.simulator import SimulatorVectorEnv
from rewardzoo.testing import check_vector_env
from rewardzoo.testing.scripted import ScriptedEnv
from rewardzoo.workers import Worker, WorkerError

MODES = list(AutoresetMode)


class Counter:
    """Counts its steps; an action can also be an order: raise, die, hang, end the episode."""

    FINE, RAISE, DIE, HANG, END = range(5)
    render_modes = ("ansi",)

    def __init__(self, broken: bool = False, pixels: int = 0) -> None:
        self.observation_space = spaces.Dict(
            {
                "steps": spaces.Discrete(1_000_000),
                "seed": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            }
        )
        self.action_space = spaces.Discrete(5)
        self.info_fields = {"height": float, "count": int}
        self._broken = broken
        self.seed, self.episode = 0, 0

    def attach(self, observation: Any, info: Any) -> None:
        self.observation, self.info = observation, info
        if self._broken:
            raise OSError("no such simulator")

    def reset(self, seed: int | None) -> None:
        if seed is not None:
            self.seed, self.episode = seed, 0
        self.episode += 1
        self.steps = 0
        self._write()

    def step(self, action: int) -> tuple[float, bool, bool]:
        if action == self.RAISE:
            raise ZeroDivisionError("the world has a hole")
        if action == self.DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == self.HANG:
            time.sleep(3600)
        self.steps += 1
        self._write()
        return float(self.steps), action == self.END, False

    def _write(self) -> None:
        self.observation["steps"][...] = self.steps
        self.observation["seed"][:] = self.seed, self.episode
        self.info["height"][0] = self.steps / 2
        self.info["count"][0] = self.steps

    def render(self, mode: str) -> str:
        return f"{self.seed}: {self.steps}"

    def close(self) -> None:
        pass


def counters(num_envs: int = 4, **kwargs: Any) -> SimulatorVectorEnv:
    return SimulatorVectorEnv(num_envs, Counter, **{"num_workers": 2, **kwargs})


def fine(envs: Any, **rows: int) -> torch.Tensor:
    actions = torch.zeros(envs.num_envs, dtype=torch.int64)
    for row, action in rows.items():
        actions[int(row[1:])] = action
    return actions


def test_conformance_of_any_gymnasium_environment() -> None:
    def make(num_envs: int, autoreset_mode: AutoresetMode) -> SimulatorVectorEnv:
        return SimulatorVectorEnv(
            num_envs,
            GymnasiumEngine,
            env="CartPole-v1",
            max_episode_steps=13,
            autoreset_mode=autoreset_mode,
            num_workers=2,
        )

    report = check_vector_env(make)
    assert report.terminated and report.truncated and report.objective


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("observation", ["box", "discrete", "dict"])
def test_transitions_are_those_of_sync_vector_env(
    mode: AutoresetMode, ends: str, observation: str
) -> None:
    lengths = (2, 3, 1)
    envs = SimulatorVectorEnv(
        3,
        lambda: GymnasiumEngine(lambda: ScriptedEnv(lengths, (ends,), observation)),
        autoreset_mode=mode,
        num_workers=2,
    )
    sync = gymnasium.vector.SyncVectorEnv(
        [lambda: ScriptedEnv(lengths, (ends,), observation)] * 3, autoreset_mode=mode
    )
    trackers = [StepTracker(e, torch.device("cpu")) for e in (envs, sync)]
    for e, tracker in zip((envs, sync), trackers, strict=True):
        tracker.reset(e.reset(seed=0)[0])
    for _ in range(9):
        actions = np.zeros(3, np.int64)
        a, b = (
            t.step(actions, *e.step(torch.from_numpy(actions) if e is envs else actions))
            for e, t in zip((envs, sync), trackers, strict=True)
        )
        for name in ("obs", "next_obs", "reward", "terminated", "truncated", "valid",
                     "episode_step"):  # fmt: skip
            x, y = getattr(a, name), getattr(b, name)
            x, y = (v if isinstance(v, dict) else {"": v} for v in (x, y))
            valid = a.valid
            assert all(torch.equal(x[k][valid], y[k][valid].to(x[k].dtype)) for k in x), name
        if mode is AutoresetMode.DISABLED and bool(a.done.any()):
            for e, tracker in zip((envs, sync), trackers, strict=True):
                mask = a.done if e is envs else a.done.numpy()
                tracker.reset(e.reset(options={"reset_mask": mask})[0], {"reset_mask": mask})
    envs.close()


@pytest.mark.parametrize(
    ("num_workers", "processes"), [(None, 2), (0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (9, 5)]
)
def test_rows_do_not_depend_on_the_number_of_workers(
    num_workers: int | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardzoo.simulator.cores", lambda: 3)
    envs = counters(5, num_workers=num_workers)
    assert sum(isinstance(w, Worker) for w in envs.workers) == processes
    obs, info = envs.reset(seed=10)
    assert obs["seed"][:, 0].tolist() == [10, 11, 12, 13, 14] and obs["steps"].tolist() == [0] * 5
    obs, reward, _, _, info = envs.step(fine(envs))
    assert reward.tolist() == [1.0] * 5 and info["count"].tolist() == [1] * 5
    assert info["height"].tolist() == [0.5] * 5 and info["height"].dtype == torch.float32
    envs.close()


def test_returned_tensors_are_never_written_again() -> None:
    envs = counters(max_episode_steps=3)
    kept = []
    obs, _ = envs.reset(seed=0)
    for _ in range(5):
        out = envs.step(fine(envs))
        flat = [out[0]["steps"], *out[1:4], out[4]["count"], out[4]["episode"]["r"],
                out[4]["final_obs"]["steps"], out[4]["final_info"]["count"]]  # fmt: skip
        kept.append((flat, [x.clone() for x in flat]))
    assert all(torch.equal(a, b) for was, now in kept for a, b in zip(was, now, strict=True))
    envs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_without_copies_two_steps_of_tensors_take_turns(mode: AutoresetMode) -> None:
    new, old = (counters(max_episode_steps=3, autoreset_mode=mode, copy=c) for c in (True, False))
    first, _ = old.reset(seed=0)
    new.reset(seed=0)
    kept, steps = first["seed"].clone(), []
    for _ in range(8):
        steps.append((new.step(fine(new)), old.step(fine(old))))
        for now, then in steps[-2:]:  # the last step and the one before
            assert_same(now, then)
    addresses = [obs["steps"].data_ptr() for _, (obs, *_) in steps]
    assert len(set(addresses)) == 2 and addresses[:2] * 4 == addresses
    assert torch.equal(first["seed"], kept), "what reset returned was overwritten"
    assert len({id(info) for _, (*_, info) in steps}) == len(steps), "wrappers write into info"
    for envs in (new, old):
        envs.close()


def test_whoever_keeps_tensors_refuses_those_that_are_overwritten() -> None:
    envs = counters(copy=False)
    with pytest.raises(ValueError, match="copy=False.*make it with copy=True"):
        VectorRewardWrapper(envs, env_reward)
    with pytest.raises(ValueError, match="copy=False"):
        PPO(envs)
    envs.close()


def assert_same(a: Any, b: Any) -> None:
    """Two results, down to the last tensor."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    else:
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)


def test_ends_of_episodes_tell_their_sums_and_last_numbers() -> None:
    envs = counters(max_episode_steps=3)
    envs.reset(seed=0)
    for _ in range(3):
        obs, reward, terminated, truncated, info = envs.step(fine(envs))
    assert truncated.all() and not terminated.any() and info["_episode"].all()
    assert info["episode"]["r"].tolist() == [6.0] * 4 and info["episode"]["l"].tolist() == [3] * 4
    assert info["final_info"]["count"].tolist() == [3] * 4 and info["count"].tolist() == [0] * 4
    assert info["final_obs"]["steps"].tolist() == [3] * 4 and obs["steps"].tolist() == [0] * 4
    assert info["final_obs"]["seed"][:, 1].tolist() == [1] * 4
    envs.close()


def test_two_half_batches_step_at_the_same_time() -> None:
    whole, halves = counters(4, num_workers=1), [counters(2, num_workers=1) for _ in range(2)]
    want = [whole.reset(seed=3)[0]["seed"]]
    got = [torch.cat([h.reset(seed=3 + 2 * i)[0]["seed"] for i, h in enumerate(halves)])]
    for _ in range(3):
        for half in halves:
            half.step_async(torch.zeros(2, dtype=torch.int64))
        got.append(torch.cat([half.step_wait()[0]["steps"] for half in halves]))
        want.append(whole.step(fine(whole))[0]["steps"])
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
    with pytest.raises(RuntimeError, match="step_wait"):
        whole.step_wait()
    whole.step_async(fine(whole))
    with pytest.raises(RuntimeError, match="step_async"):
        whole.step_async(fine(whole))
    whole.step_wait()
    for envs in (whole, *halves):
        envs.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Counter.RAISE, "ZeroDivisionError: the world has a hole"),
        (Counter.DIE, "was ended by SIGKILL"),
        (Counter.HANG, "said nothing for 1 s"),
    ],
)
def test_failed_worker_is_named_restarted_and_its_episodes_truncated(
    mode: AutoresetMode, copy: bool, order: int, said: str
) -> None:
    envs = counters(autoreset_mode=mode, timeout=1.0, copy=copy)
    obs, _ = envs.reset(seed=0)
    seeds = obs["seed"][:, 0].tolist()
    envs.step(fine(envs))
    with pytest.warns(UserWarning, match=rf"(?s)worker 0 \(rows 0 to 1\).*{said}"):
        obs, reward, terminated, truncated, info = envs.step(fine(envs, r1=order))
    # Rows 0 and 1 shared the worker; the others stepped on.
    assert truncated.tolist() == [True, True, False, False] and not terminated.any()
    assert reward.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert info["episode"]["l"].tolist() == [2] * 4
    assert info["episode"]["r"].tolist() == [1.0, 1.0, 3.0, 3.0]
    last = info["final_obs"] if mode is AutoresetMode.SAME_STEP else obs
    assert last["steps"].tolist() == [1, 1, 2, 2]  # the last that was seen, whole
    assert last["seed"][:, 0].tolist() == seeds
    if mode is AutoresetMode.DISABLED:
        obs, _ = envs.reset(options={"reset_mask": truncated})
    elif mode is AutoresetMode.NEXT_STEP:
        obs, reward, terminated, truncated, _ = envs.step(fine(envs))
        assert reward.tolist() == [0.0, 0.0, 3.0, 3.0] and not (terminated | truncated).any()
    assert obs["steps"][:2].tolist() == [0, 0]
    fresh = obs["seed"][:, 0].tolist()
    assert fresh[2:] == seeds[2:] and len({*fresh, *seeds}) == 6, "seeds are used again"
    obs, reward, _, _, info = envs.step(fine(envs))
    assert reward[:2].tolist() == [1.0, 1.0] and info["episode"]["l"][:2].tolist() == [1, 1]
    assert envs.restarts == 1
    envs.close()


def test_length_of_an_episode_that_a_crash_ends_at_its_first_step() -> None:
    envs = counters(max_episode_steps=2)
    envs.reset(seed=0)
    envs.step(fine(envs))
    envs.step(fine(envs))  # ends all episodes
    with pytest.warns(UserWarning, match="SIGKILL"):
        _, _, _, truncated, info = envs.step(fine(envs, r0=Counter.DIE))
    assert truncated.tolist() == [True, True, False, False]
    assert info["episode"]["l"].tolist() == [1] * 4
    assert info["episode"]["r"].tolist() == [0.0, 0.0, 1.0, 1.0]
    envs.close()


def test_worker_killed_from_outside_between_steps_is_replaced() -> None:
    envs = counters()
    envs.reset(seed=0)
    process = envs.workers[1].process
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.warns(UserWarning, match=r"worker 1 \(rows 2 to 3\)"):
        truncated = envs.step(fine(envs))[3]
    assert truncated.tolist() == [False, False, True, True]
    os.kill(envs.workers[0].process.pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="worker 0"):
        obs, _ = envs.reset(seed=5)
    assert obs["steps"].tolist() == [0] * 4
    assert obs["seed"][:, 0].tolist() == [5, 6, 7, 8], "the seeds asked for are lost"
    envs.close()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorVectorEnv]:
    """Four counters, the last two of them in this process."""
    monkeypatch.setattr("rewardzoo.simulator.cores", lambda: 2)
    envs = counters(num_workers=None)
    envs.reset(seed=0)
    yield envs
    envs.close()


def test_callers_share_steps_on_when_a_worker_dies(shared: SimulatorVectorEnv) -> None:
    shared.step(fine(shared))
    with pytest.warns(UserWarning, match=r"worker 0 \(rows 0 to 1\)"):
        obs, reward, _, truncated, info = shared.step(fine(shared, r0=Counter.DIE))
    assert truncated.tolist() == [True, True, False, False]
    assert reward.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert obs["steps"].tolist() == [0, 0, 2, 2]
    assert shared.step(fine(shared))[1].tolist() == [1.0, 1.0, 3.0, 3.0]


def test_what_is_raised_in_the_callers_share_is_mended_too(shared: SimulatorVectorEnv) -> None:
    shared.step(fine(shared))
    with pytest.warns(UserWarning, match=r"(?s)rows 2 to 3 raised.*the world has a hole"):
        obs, reward, _, truncated, info = shared.step(fine(shared, r3=Counter.RAISE))
    assert truncated.tolist() == [False, False, True, True]
    assert reward.tolist() == [2.0, 2.0, 0.0, 0.0]
    assert info["final_obs"]["steps"].tolist() == [2, 2, 1, 1]
    assert obs["steps"].tolist() == [2, 2, 0, 0]
    assert shared.step(fine(shared))[1].tolist() == [3.0, 3.0, 1.0, 1.0]
    assert shared.restarts == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_worker_that_fails_at_every_step_ends_the_run_with_its_traceback(num_workers: int) -> None:
    envs = counters(num_workers=num_workers)
    envs.reset(seed=0)
    with pytest.warns(UserWarning), pytest.raises(WorkerError, match="ZeroDivisionError"):
        for _ in range(5):
            envs.step(fine(envs, r0=Counter.RAISE))
    assert not num_workers or all(w.process.exitcode is not None for w in envs.workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_engine_that_cannot_be_made_is_reported_at_once(num_workers: int) -> None:
    with pytest.raises(WorkerError, match="no such simulator"):
        counters(broken=True, num_workers=num_workers)


def test_training_goes_on_when_a_worker_dies() -> None:
    envs = SimulatorVectorEnv(4, GymnasiumEngine, env="CartPole-v1", num_workers=2)
    wrapped = VectorRewardWrapper(envs, 2.0 * env_reward)
    agent = PPO(wrapped, num_steps=4, hidden=(8,))
    seen = []

    def kill(_: Any, metrics: dict[str, float]) -> None:
        seen.append(metrics["rollout/episodes"])
        if len(seen) == 1:
            os.kill(envs.workers[0].process.pid, signal.SIGKILL)

    with pytest.warns(UserWarning, match="worker 0"):
        agent.learn(6 * 16, callback=kill)
    assert envs.restarts == 1 and len(seen) == 6
    envs.close()


def test_checkpoint_on_worlds_that_cannot_be_saved_keeps_the_learned_reward(
    tmp_path: Path,
) -> None:
    """Training goes on with new episodes, and with all that agent and reward have learned."""

    class Seen(RewardFunction):
        """Counts the steps of each row's episode, and all steps."""

        def bind(self, num_envs: int, device: Any, spaces: Any) -> None:
            super().bind(num_envs, device, spaces)
            self.steps, self.total = torch.zeros(num_envs), torch.zeros(())

        def reset(self, mask: torch.Tensor, obs: Any) -> None:
            self.steps = torch.where(mask, 0.0, self.steps)

        def __call__(self, t: Any) -> torch.Tensor:
            self.steps, self.total = self.steps + 1, self.total + len(t.reward)
            return self.steps.clone()

        def state_dict(self) -> dict[str, Any]:
            return {"steps": self.steps, "total": self.total}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.steps, self.total = state["steps"], state["total"]

    def envs() -> VectorRewardWrapper:
        made = SimulatorVectorEnv(2, GymnasiumEngine, env="CartPole-v1", num_workers=1)
        return VectorRewardWrapper(made, Seen())

    first, second = envs(), envs()
    agent = PPO(first, num_steps=4, num_minibatches=2, hidden=(8,)).learn(16)
    agent.save(tmp_path / "agent.pt")
    again = PPO.load(tmp_path / "agent.pt", second)
    assert again.num_timesteps == 16
    assert torch.equal(agent.parameters, again.parameters)
    assert second.reward_function.total == 16 and not second.reward_function.steps.any()
    again.learn(8, reset_num_timesteps=False)
    assert second.reward_function.total == 24
    for wrapped in (first, second):
        wrapped.close()


def test_no_process_is_left_behind() -> None:
    envs = counters()
    envs.reset(seed=0)
    processes = [w.process for w in envs.workers]
    envs.close()
    assert all(p.exitcode == 0 for p in processes)
    envs = counters()
    processes = [w.process for w in envs.workers]
    del envs
    assert all(p.exitcode is not None for p in processes)


def test_batches_render_row_by_row() -> None:
    envs = counters(3, render_mode="ansi")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.render()
    envs.reset(seed=7)
    envs.step(fine(envs))
    assert envs.render() == ("7: 1", "8: 1", "9: 1")
    envs.close()
    assert counters(3).render() is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 0}, "num_envs=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"max_episode_steps": 0}, "max_episode_steps=0"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"autoreset_mode": "never"}, "autoreset_mode='never'"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counters(**kwargs)


def test_misuse_is_named() -> None:
    envs = counters(autoreset_mode="DISABLED")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(fine(envs))
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.reset(options={"reset_mask": torch.ones(4, dtype=torch.bool)})
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="actions"):
        envs.step(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="3 seeds for 4"):
        envs.reset(seed=[1, 2, 3])
    envs.step(fine(envs, r2=Counter.END))
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(fine(envs))
    obs, _ = envs.reset(options={"reset_mask": torch.tensor([False, False, True, False])})
    assert obs["steps"].tolist() == [1, 1, 0, 1]
    obs, _ = envs.reset(seed=[5, 6, 7, 8])
    assert obs["seed"][:, 0].tolist() == [5, 6, 7, 8]
    envs.close()


def test_spaces_come_apart_and_together_again() -> None:
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Dict({"c": spaces.Box(0, 1, (2,))})})
    found = leaves(space)
    assert found == {"a": ((), np.int64), "b.c": ((2,), np.float32)}
    assert tree(space, {"a": 1, "b.c": 2}) == {"a": 1, "b": {"c": 2}}
    with pytest.raises(ValueError, match="fixed shape"):
        leaves(spaces.Text(5))


def test_info_of_gymnasium_environments_is_kept() -> None:
    env = gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda r: 2 * r)

    class Told(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = self.env.step(action)
            return obs, reward, terminated, truncated, {"objective": 1.0, "angle": obs[2]}

    engine = GymnasiumEngine(lambda: Told(env), info_fields={"angle": float})
    obs, info = own_buffers(engine)
    engine.reset(0)
    assert engine.step(1) == (1.0, False, False) and info["angle"][0] == obs[2]
