"""NStepReplay: its windows against a loop over episodes, wherever they end and the ring wraps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.agents.common.n_step import NStepReplay, n_step

CPU = torch.device("cpu")


class Played:
    """Steps that carry their own names, as a replay takes them and as a loop reads them.

    Observation = 1000 * env + time since the beginning of everything; reward = random.
    """

    def __init__(self, ends: Any, dead: Any = None, seed: int = 0) -> None:
        # ends (T, N): 0 goes on, 1 terminated, 2 truncated
        self.ends = torch.as_tensor(ends)
        steps, envs = self.ends.shape
        self.dead = torch.zeros(steps, envs, dtype=torch.bool) if dead is None else dead
        time = torch.arange(steps).unsqueeze(1) + 1000 * torch.arange(envs)
        self.obs = time.to(torch.float32).unsqueeze(-1)
        g = torch.Generator().manual_seed(seed)
        self.reward = torch.randn(steps, envs, generator=g)
        self.terminated, self.truncated = self.ends == 1, self.ends == 2

    def add_to(self, replay: NStepReplay, sizes: list[int]) -> None:
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            start += size
            valid = ~self.dead[part] if bool(self.dead.any()) else None
            replay.add(
                self.obs[part], -self.obs[part], self.reward[part], self.obs[part] + 0.5,
                self.terminated[part], self.truncated[part], valid,
            )  # fmt: skip

    def brute(self, name: float, n: int, gamma: float, last: int) -> tuple[float, float, float]:
        """Return, discount and successor of the window that begins at the step called ``name``."""
        env, t = divmod(int(name), 1000)
        total, length = 0.0, 0
        while True:
            total += gamma**length * float(self.reward[t, env])
            length += 1
            ended = int(self.ends[t, env])
            if ended or length == n or t + 1 > last:
                break
            t += 1
        return total, 0.0 if ended == 1 else gamma**length, float(self.obs[t, env, 0]) + 0.5


def check(played: Played, replay: NStepReplay, n: int, gamma: float = 0.9) -> None:
    last = len(played.ends) - 1
    start = torch.arange(len(replay))
    batch = replay.batch(replay.windows(start, n), gamma)
    for i in range(len(replay)):
        name = float(batch.obs[i, 0])
        want = played.brute(name, n, gamma, last)
        got = (float(batch.returns[i]), float(batch.discount[i]), float(batch.next_obs[i, 0]))
        assert got == pytest.approx(want, abs=1e-5), (i, name)


@pytest.mark.parametrize("kinds", list(itertools.product([0, 1, 2], repeat=5)))
def test_all_positions_of_termination_and_truncation(kinds: tuple[int, ...]) -> None:
    """Also where an episode ends with the window's last step: no future follows a termination."""
    played = Played(torch.tensor(kinds).unsqueeze(1))
    replay = NStepReplay(16, 1, CPU)
    played.add_to(replay, [2, 1, 2])
    for n in (1, 2, 3, 5, 7):
        check(played, replay, n)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_environments_and_a_ring_that_wraps(data: st.DataObject) -> None:
    envs = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    steps = sum(sizes)
    ends = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=envs, max_size=envs),
                min_size=steps, max_size=steps,
            )
        )
    )  # fmt: skip
    capacity = data.draw(st.integers(8 * envs, 20 * envs))
    played = Played(ends, seed=steps)
    replay = NStepReplay(capacity, envs, CPU)
    played.add_to(replay, sizes)
    assert len(replay) == min(capacity, steps * envs)
    check(played, replay, data.draw(st.integers(1, 6)))


def test_dead_steps_are_left_out_and_no_window_crosses_them() -> None:
    """Next-step autoreset: the step after an end only resets."""
    ends = torch.tensor([[0, 1], [2, 0], [0, 0], [0, 0], [1, 0]])
    dead = torch.zeros_like(ends, dtype=torch.bool)
    dead[1, 1] = dead[2, 0] = True
    played = Played(ends, dead)
    replay = NStepReplay(40, 2, CPU)
    played.add_to(replay, [1, 2, 2])
    assert len(replay) == 8
    names = replay.batch(replay.windows(torch.arange(8), 1), 0.9).obs[:, 0]
    assert 1001.0 not in names.tolist() and 2.0 not in names.tolist()
    check(played, replay, 4)


def test_the_last_steps_of_a_window_may_be_yet_to_come() -> None:
    """A window at the ring's head is shorter, and bootstrapped from where it stops."""
    played = Played(torch.zeros(6, 1, dtype=torch.int64))
    replay = NStepReplay(20, 1, CPU)
    played.add_to(replay, [6])
    batch = replay.batch(replay.windows(torch.tensor([5]), 10), 0.5)
    assert batch.discount.tolist() == [0.5] and batch.next_obs.tolist() == [[5.5]]


def test_an_absorbing_state_is_its_own_successor() -> None:
    """A termination leads into it, a truncation does not; its row bootstraps from itself."""
    ends = torch.tensor([[0], [1], [0], [2]])
    played = Played(ends)
    replay = NStepReplay(20, 1, CPU, absorbing=True)
    played.add_to(replay, [4])
    assert len(replay) == 5
    batch = replay.batch(replay.windows(torch.arange(5), 3), 0.5)
    assert batch.obs[2].tolist() == [0.0, 1.0] and batch.action[2].tolist() == [0.0, 1.0]
    assert batch.next_obs[:3].tolist() == [[0.0, 1.0]] * 3
    assert batch.obs[[0, 1, 3, 4], 1].tolist() == [0.0] * 4
    assert batch.next_obs[3:].tolist() == [[3.5, 0.0]] * 2
    assert batch.discount.tolist() == [0.125, 0.125, 0.125, 0.25, 0.5]
    paid = replay.batch(
        replay.windows(torch.tensor([1]), 3), 0.5, lambda t: t.obs[:, -1] * 8 + 1 - t.obs[:, -1]
    )
    assert paid.returns.tolist() == [1 + 4 + 2]  # the absorbing row is paid, again and again


def test_rewards_are_those_of_now() -> None:
    """A reward function that has changed pays every step of the window, not only the first."""
    played = Played(torch.tensor([[0], [0], [1]]))
    replay = NStepReplay(8, 1, CPU)
    played.add_to(replay, [3])
    windows = replay.windows(torch.tensor([0, 1, 2]), 3)
    batch = replay.batch(windows, 0.5, lambda t: t.next_obs[:, 0] + t.terminated, lambda a: a)
    assert batch.returns.tolist() == [0.5 + 0.75 + 0.875, 1.5 + 1.75, 3.5]


def test_saved_replay_continues(tmp_path: Any) -> None:
    played = Played(torch.tensor([[0, 0], [0, 1], [2, 0], [0, 0], [0, 0], [0, 0]]))
    whole, part = NStepReplay(12, 2, CPU), NStepReplay(12, 2, CPU)
    played.add_to(whole, [1, 2, 1, 2])
    played.add_to(part, [1, 2])
    torch.save(part.state_dict(), tmp_path / "replay.pt")
    resumed = NStepReplay(12, 2, CPU)
    resumed.load_state_dict(torch.load(tmp_path / "replay.pt"))
    rest = Played(played.ends[3:])
    rest.obs, rest.reward = played.obs[3:], played.reward[3:]
    rest.add_to(resumed, [1, 2])
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        a, b = (getattr(x.transitions(torch.arange(12)), name) for x in (whole, resumed))
        assert torch.equal(a, b)
    assert torch.equal(
        whole.windows(torch.arange(12), 4).index, resumed.windows(torch.arange(12), 4).index
    )
    with pytest.raises(ValueError, match="12 places, expected 8"):
        NStepReplay(8, 2, CPU).load_state_dict(part.state_dict())


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="capacity=7: expected at least 8"):
        Played(torch.zeros(4, 1, dtype=torch.int64)).add_to(NStepReplay(7, 1, CPU), [4])
    with pytest.raises(ValueError, match="replay: it is empty"):
        NStepReplay(7, 1, CPU).windows(torch.tensor([0]), 1)


def test_returns_by_hand() -> None:
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    inside = torch.tensor([[True, True, False], [True, True, True]])
    returns, discount = n_step(reward, inside, torch.tensor([False, True]), 0.5)
    assert returns.tolist() == [2.0, 3.0] and discount.tolist() == [0.25, 0.0]
