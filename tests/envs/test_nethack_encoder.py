"""The encoder sees the window around the hero, scaled numbers and the message; PPO learns by it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import rewardzoo  # noqa: F401
from rewardzoo.agents.common.encoders import encoder as encoder_of
from rewardzoo.agents.common.nethack import NetHackEncoder, Numbers, Window, takes
from rewardzoo.agents.common.networks import ActorCritic
from rewardzoo.agents.ppo import PPO

GLYPHS = 5977
SPACE = spaces.Dict(
    {
        "glyphs": spaces.Box(0, GLYPHS - 1, (21, 79), np.int16),
        "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
        "message": spaces.Box(0, 255, (256,), np.uint8),
    }
)
ROOM = "rewardzoo/MiniHackRoomRandom5x5-v0"


def observations(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    blstats = rng.integers(0, 4, (count, 27))  # so small that nothing is clipped
    blstats[:, 0], blstats[:, 1] = rng.integers(0, 79, count), rng.integers(0, 21, count)
    return {
        "glyphs": torch.from_numpy(rng.integers(0, GLYPHS, (count, 21, 79)).astype(np.int16)),
        "blstats": torch.from_numpy(blstats),
        "message": torch.from_numpy(rng.integers(0, 256, (count, 256)).astype(np.uint8)),
    }


@settings(max_examples=20)
@given(st.integers(0, 78), st.integers(0, 20), st.sampled_from([1, 3, 9, 13]))
def test_window_is_the_map_around_the_hero(x: int, y: int, width: int) -> None:
    glyphs = np.random.default_rng(x).integers(0, GLYPHS, (21, 79)).astype(np.int16)
    half = width // 2
    want = np.pad(glyphs, half, constant_values=GLYPHS)[y : y + width, x : x + width]
    blstats = torch.zeros(27, dtype=torch.int64)
    blstats[0], blstats[1] = x, y
    got = Window(GLYPHS, width, 4).cut(torch.from_numpy(glyphs), blstats)
    np.testing.assert_array_equal(got.numpy().reshape(width, width), want)


def test_window_cut_by_the_environment_gives_the_same_features() -> None:
    keys = ("glyphs", "glyphs_crop", "blstats")
    env = gymnasium.make("rewardzoo/MiniHackKeyRoomS5-v0", observation_keys=keys)
    obs = {k: torch.from_numpy(v)[None] for k, v in env.reset(seed=0)[0].items()}
    x, y = env.unwrapped.game.blstats[0], env.unwrapped.game.blstats[1]
    assert 4 <= x < 75 and 4 <= y < 17  # the window lies on the map: no cell is outside
    window = Window(GLYPHS, 9, 4)
    got = window.cut(obs["glyphs"], obs["blstats"])
    assert torch.equal(got, obs["glyphs_crop"].flatten(-2).to(torch.int64))


def test_policy_does_not_see_score_depth_and_conditions() -> None:
    encoder = encoder_of(SPACE, 8, "tanh")
    obs = observations(5)
    hidden = [2, 9, 12, 17, 23, 24, 25, 26]
    changed = obs["blstats"].clone()
    changed[:, hidden] += 7
    assert torch.equal(encoder(obs), encoder({**obs, "blstats": changed}))
    for column in set(range(27)) - set(hidden):
        changed = obs["blstats"].clone()
        changed[:, column] -= 1
        assert not torch.equal(encoder(obs), encoder({**obs, "blstats": changed})), column


def test_numbers_are_scaled_and_bounded() -> None:
    blstats = torch.zeros(27, dtype=torch.int64)
    blstats[[0, 1, 10, 13, 20]] = torch.tensor([79, 21, 14, 500, 10**9])
    x = Numbers(4).scaled(blstats)
    assert x[[0, 1, 10, 13, 20]].tolist() == pytest.approx([1.0, 1.0, 1.4, 0.5, 5.0])
    assert float(x.abs().max()) <= 5.0


def test_message_and_other_entries_are_seen() -> None:
    space = spaces.Dict({**SPACE.spaces, "flags": spaces.MultiBinary(2)})
    encoder = encoder_of(space, 8, "tanh")
    obs = {**observations(4), "flags": torch.zeros(4, 2, dtype=torch.int8)}
    out = encoder(obs)
    assert out.shape == (4, encoder.num_features) and bool(torch.isfinite(out).all())
    assert not torch.equal(out, encoder({**obs, "message": obs["message"] // 2}))
    assert not torch.equal(out, encoder({**obs, "flags": 1 - obs["flags"]}))


def test_rows_and_leading_axes_do_not_matter() -> None:
    encoder, obs = encoder_of(SPACE, 8, "tanh"), observations(6)
    out = encoder(obs)
    single = torch.cat([encoder({k: v[i : i + 1] for k, v in obs.items()}) for i in range(6)])
    torch.testing.assert_close(out, single)
    folded = encoder({k: v.reshape(2, 3, *v.shape[1:]) for k, v in obs.items()})
    torch.testing.assert_close(folded.reshape(6, -1), out)


def test_it_is_taken_for_nethack_alone() -> None:
    assert takes(SPACE) and isinstance(ActorCritic(SPACE, 3).encoder, NetHackEncoder)
    blstats, other = SPACE["blstats"], spaces.Box(0, 1, (3,))
    assert not takes(spaces.Dict({"glyphs": other, "blstats": blstats}))
    assert not takes(spaces.Dict({"blstats": blstats})) and not takes(other)
    network = ActorCritic(SPACE, 3)
    assert network.critic_encoder is network.encoder


@pytest.mark.parametrize("recurrent", [None, "gru"])
def test_training_runs_saves_and_loads(recurrent: str | None, tmp_path: Any) -> None:
    envs = gymnasium.make_vec(ROOM, num_envs=2, num_workers=1, max_episode_steps=5)
    agent = PPO(envs, num_steps=8, num_minibatches=2, recurrent=recurrent, recurrent_size=8)
    before = agent.parameters.clone()
    agent.learn(32)
    assert not torch.equal(before, agent.parameters)
    agent.save(tmp_path / "agent.pt")
    again = PPO.load(tmp_path / "agent.pt", envs)
    obs, _ = gymnasium.make(ROOM).reset(seed=0)
    (action, memory), (same, _) = (a.predict(obs, deterministic=True) for a in (agent, again))
    assert action == same and (memory is None) == (recurrent is None)
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize(("recurrent", "steps"), [(None, 40_000), ("gru", 50_000)])
def test_ppo_learns_the_way_to_the_stairs(recurrent: str | None, steps: int) -> None:
    """The random policy needs some 40 of the 100 steps, and earns .7; the best way is 3 or 4."""
    envs = gymnasium.make_vec(ROOM, num_envs=8)
    agent = PPO(envs, seed=0, learning_rate=5e-4, ent_coef=0.01, hidden=(64,), recurrent=recurrent)
    start = agent.evaluate(envs, 64, deterministic=False)
    agent.learn(steps)
    end = agent.evaluate(envs, 64, deterministic=False)
    envs.close()
    assert float(end["return"].mean()) > 0.95
    assert float(end["length"].mean()) < float(start["length"].mean()) / 2
