"""Demonstrations: every format gives the same steps, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from typer.testing import CliRunner

import rewardzoo  # noqa: F401
from rewardzoo.agents.td3 import TD3
from rewardzoo.cli import app
from rewardzoo.data.experts import EXPERTS, train_expert
from rewardzoo.data.trajectories import Episode, make_episode, shipped, write_minari
from rewardzoo.demonstrations import Demonstrations, gathered, load_demonstrations, record_episodes

h5py = pytest.importorskip("h5py")
ENV = "rewardzoo/Pendulum-v0"  # observations (3,), actions (1,) within 2
LENGTHS = (5, 3, 4)


def episodes(seed: int = 0) -> list[Episode]:
    """The first is cut off, the second terminated, the third neither: its recording just stops."""
    g = np.random.default_rng(seed)
    made = []
    for i, length in enumerate(LENGTHS):
        terminated, truncated = np.zeros((2, length), bool)
        terminated[-1], truncated[-1] = i == 1, i == 0
        made.append(
            make_episode(
                "made up", g.normal(size=(length + 1, 3)), g.uniform(-2, 2, (length, 1)),
                g.normal(size=length), terminated, truncated,
            )
        )  # fmt: skip
    return made


def same(a: Demonstrations, b: Demonstrations) -> bool:
    names = ("obs", "action", "next_obs", "terminated", "truncated", "episode")
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in names)


def write_npz(path: Path, given: list[Episode], **changes: Any) -> None:
    data = {
        "obs": np.concatenate([e.obs for e in given]),
        "acts": np.concatenate([e.action for e in given]),
        "rews": np.concatenate([e.reward for e in given]),
        "indices": np.cumsum([len(e) for e in given[:-1]]),
        "terminal": np.array([bool((e.terminated | e.truncated)[-1]) for e in given]),
        **changes,
    }
    np.savez(path, **{k: v for k, v in data.items() if v is not None})


def write_h5(path: Path, e: Episode) -> None:
    with h5py.File(path, "w") as file:
        file["obs0"], file["acs"], file["obs1"] = e.obs[:-1], e.action, e.obs[1:]
        file["dones1"] = e.terminated | e.truncated
        file["ep_lens"], file["ep_env_rets"] = [len(e)], [e.reward.sum()]


def test_steps_know_their_true_successors() -> None:
    given = episodes()
    demos = gathered(given, "made up")
    assert len(demos) == sum(LENGTHS)
    assert np.array_equal(demos.next_obs[:4], demos.obs[1:5])
    assert np.array_equal(demos.next_obs[4], given[0].obs[5])  # not the next episode's first
    assert demos.terminated.nonzero()[0].tolist() == [7]
    assert demos.truncated.nonzero()[0].tolist() == [4]
    np.testing.assert_allclose(demos.mean_return, np.mean([e.reward.sum() for e in given]), 1e-5)
    assert demos.first(2).episode.max() == 1 and len(demos.first(2).returns) == 2


def test_every_format_gives_the_same_steps(tmp_path: Path) -> None:
    given = episodes()
    want = gathered(given, "made up")
    write_npz(tmp_path / "demos.npz", given)
    assert same(load_demonstrations(tmp_path / "demos.npz", time_limit=5), want)
    (tmp_path / "h5").mkdir()
    for i, episode in enumerate(given):
        write_h5(tmp_path / "h5" / f"{i}.h5", episode)
    found = load_demonstrations(tmp_path / "h5", time_limit=5)
    assert same(found, want)
    np.testing.assert_allclose(found.returns, want.returns, rtol=1e-5)


def test_minari_reads_what_is_written(tmp_path: Path) -> None:
    minari = pytest.importorskip("minari")
    given = episodes()
    write_minari(tmp_path / "set", given, ENV, "nobody", "made up")
    assert same(load_demonstrations(tmp_path / "set"), gathered(given, "made up"))
    dataset = minari.MinariDataset(tmp_path / "set")
    assert dataset.total_steps == sum(LENGTHS)
    theirs = [np.asarray(e.observations) for e in dataset.iterate_episodes()]
    assert all(np.array_equal(a, e.obs) for a, e in zip(theirs, given, strict=True))
    with pytest.raises(ValueError, match="there is a data set already"):
        write_minari(tmp_path / "set", given, ENV, "nobody", "made up")


@pytest.mark.parametrize("name", shipped())
def test_shipped_demonstrations_fit_their_environments(name: str) -> None:
    pytest.importorskip("mujoco")
    demos = load_demonstrations(name)
    env = gymnasium.make(f"rewardzoo/{name}-v0")
    demos.check(env.observation_space, env.action_space, 64)
    assert len(demos.returns) <= 16
    # An action leads where the recording says: the simulator repeats the first episode.
    obs, _ = env.reset(seed=0)
    np.testing.assert_allclose(obs, demos.obs[0], rtol=1e-5, atol=1e-6)
    for t in range(20):
        obs, *_ = env.step(demos.action[t])
        np.testing.assert_allclose(obs, demos.next_obs[t], rtol=1e-3, atol=1e-3)


def test_subsampling_keeps_every_kth_step_and_each_end() -> None:
    """From another offset in every episode; a terminated step is kept wherever it falls."""
    demos = gathered(episodes(), "made up")
    ends = set()
    for seed in range(40):
        part = demos.subsampled(3, seed)
        assert part.terminated.sum() == 1
        plain = part.obs[(part.episode == 0)]
        places = [int((demos.obs[:5] == x).all(1).argmax()) for x in plain]
        assert np.diff(places).tolist() == [3] * (len(places) - 1) and places[0] < 3
        ends.add(places[0])
    assert len(ends) == 3
    assert same(demos.subsampled(1), demos)
    with pytest.raises(ValueError, match=r"every=6: the longest of made up's episodes has 5 steps"):
        demos.subsampled(6)


def test_errors_name_both_sides(tmp_path: Path) -> None:
    given = episodes()
    demos = gathered(given, "made up")
    box = spaces.Box(-2.0, 2.0, (1,))
    obs = spaces.Box(-np.inf, np.inf, (3,))
    demos.check(obs, box, 12)
    for observation, action, rows, message in (
        (spaces.Box(-1, 1, (4,)), box, 1, r"made up: observations are \(3,\).*\(4,\)"),
        (obs, spaces.Box(-2, 2, (2,)), 1, r"made up: actions are \(1,\).*\(2,\)"),
        (obs, spaces.Box(-0.5, 0.5, (1,)), 1, r"the action of step \d+ is .* outside of .*0.5"),
        (obs, box, 64, "made up: 12 steps, expected at least 64"),
    ):
        with pytest.raises(ValueError, match=message):
            demos.check(observation, action, rows)
    broken = episodes()
    broken[1].obs[0, 0] = np.nan
    with pytest.raises(ValueError, match="in episode 1 obs is not finite"):
        gathered(broken, "made up")
    with pytest.raises(ValueError, match="there is no step in it"):
        gathered([], "made up")
    write_npz(tmp_path / "demos.npz", given)
    with pytest.raises(ValueError, match="give time_limit="):
        load_demonstrations(tmp_path / "demos.npz")
    write_npz(tmp_path / "none.npz", given, terminal=None)
    with pytest.raises(ValueError, match="there is no 'terminal'"):
        load_demonstrations(tmp_path / "none.npz", 5)
    write_npz(tmp_path / "short.npz", given, acts=given[0].action)
    with pytest.raises(ValueError, match="observations and .* actions"):
        load_demonstrations(tmp_path / "short.npz", 5)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        load_demonstrations("nothing")
    (tmp_path / "set").mkdir()
    with h5py.File(tmp_path / "set" / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group.attrs["id"] = 0
        group["observations"] = np.zeros((2, 3))
    (tmp_path / "set" / "metadata.json").write_text('{"data_format": "hdf5"}')
    with pytest.raises(ValueError, match="there is no terminations and no truncations"):
        load_demonstrations(tmp_path / "set")


def test_recording_and_checking_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    agent = TD3(gymnasium.make_vec(ENV, num_envs=1), actor_hidden=(8,), critic_hidden=(8,))
    agent.save(tmp_path / "agent.pt")
    run = CliRunner()
    said = run.invoke(
        app, ["demos", "record", "--env", ENV, "--checkpoint", str(tmp_path / "agent.pt"),
              "--out", str(tmp_path / "set"), "--episodes", "2"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    said = run.invoke(app, ["demos", "check", str(tmp_path / "set"), "--env", ENV])
    assert said.exit_code == 0 and "400 in 2 episodes" in said.output, said.output
    assert "truncated   2" in said.output
    demos = load_demonstrations(tmp_path / "set")
    again = record_episodes(agent, gymnasium.make(ENV), 2)
    assert same(demos, gathered(again, "again"))


def test_an_expert_is_trained_again_by_its_name(tmp_path: Path) -> None:
    """A few steps of it: what is written is what the policy does."""
    pytest.importorskip("mujoco")
    pytest.importorskip("minari")
    said = train_expert("InvertedPendulum", tmp_path / "set", 1_500, 2, compile=False)
    demos = load_demonstrations(tmp_path / "set")
    assert "2 episodes of rewardzoo/InvertedPendulum-v0" in said
    assert f"return {demos.mean_return:.1f}" in said
    assert len(demos) - demos.terminated.sum() == demos.returns.sum()  # 1 for each upright
    assert set(shipped()) <= set(EXPERTS)
    with pytest.raises(ValueError, match="expert 'Hoper' is unknown: did you mean 'Hopper'?"):
        train_expert("Hoper", tmp_path / "other")
