"""Counterfactual experiences: each row is what stepping the machine in that state would have given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.common.counterfactual import Counterfactuals
from rewardzoo.agents.common.replay_buffer import Sample
from rewardzoo.agents.double_dqn import DoubleDQN
from rewardzoo.agents.tabular import expected_return, mdp_of, value_iteration
from rewardzoo.experiments.expressivity import product
from rewardzoo.rewards import VectorAppendRewardState, VectorRewardWrapper, env_reward
from rewardzoo.rewards.reward_machine import RewardMachine
from rewardzoo.rewards.terminate import VectorTerminateTask

MAZE = "rewardzoo/GridWorld-v0"
TOUR = "0\n[3]\n(0, 1, 'l', 0)\n(1, 2, 'r', 0)\n(2, 3, 'l', 1)"
GAMMA = 0.9
SMALL = {"learning_starts": 0, "batch_size": 32, "buffer_size": 4096, "gamma": GAMMA}


def envs(
    map: str = ".S..", labels: Any = None, shaping: Any = None, num_envs: int = 4, **kwargs: Any
) -> Any:
    fn = RewardMachine(TOUR, labels or {"l": [0], "r": [len(map) - 1]}, shaping)
    inner = gymnasium.make_vec(MAZE, num_envs, map=map, slip=0.0, **kwargs)
    return VectorAppendRewardState(VectorRewardWrapper(inner, fn))


def stored(agent: DoubleDQN) -> Sample:
    return agent.buffer.at(torch.arange(len(agent.buffer)))


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
@pytest.mark.parametrize("shaping", [None, "agent"])
def test_rows_are_what_each_state_of_the_machine_would_have_given(mode: str, shaping: Any) -> None:
    """The right end ends an episode, and the limit cuts some off."""
    how = {"map": ".S.G", "shaping": shaping, "max_episode_steps": 6, "autoreset_mode": mode}
    agent = DoubleDQN(envs(**how), counterfactual=True, num_steps=20, **SMALL)
    machine = agent.envs.reward_function
    kept = []

    class Watched(RewardMachine):
        def __call__(self, t: Any) -> torch.Tensor:
            kept.append(t)
            return super().__call__(t)

    machine.__class__ = Watched
    agent.collect()
    machine.__class__ = RewardMachine
    found, place = stored(agent), 0
    assert len(kept) == 20
    for t in kept:
        after = {}
        for u in range(3):
            machine.state = torch.full((4,), u)
            paid = machine(t)
            after[u] = machine.state.clone(), paid, t.terminated | machine.over()
        for row in t.valid.nonzero().squeeze(1).tolist():
            for u in range(3):
                state, paid, over = (x[row] for x in after[u])
                assert found.obs["observation"][place] == t.obs[row]
                assert found.next_obs["observation"][place] == t.next_obs[row]
                assert found.obs["reward_state"][place].argmax() == u
                assert found.next_obs["reward_state"][place].argmax() == state
                assert found.action[place] == t.action[row]
                assert found.reward[place] == paid and found.terminated[place] == over
                place += 1
    assert place == len(agent.buffer) and bool(found.terminated.any())


def test_what_happened_is_among_what_might_have() -> None:
    """Random actions are the same with the option and without; so is what they led to."""
    how: Any = {"num_steps": 30, "seed": 1, **SMALL}
    plain, imagined = DoubleDQN(envs(), **how), DoubleDQN(envs(), counterfactual=True, **how)
    plain.collect(), imagined.collect()
    real, more = stored(plain), stored(imagined)
    assert len(real.reward) == 120 and len(more.reward) == 360
    taken = 3 * torch.arange(120) + real.obs["reward_state"].argmax(1)
    going_on = real.obs["reward_state"].argmax(1) < 3  # where it is over there is nothing to learn
    for name in ("obs", "next_obs"):
        for key in ("observation", "reward_state"):
            a, b = getattr(real, name)[key], getattr(more, name)[key]
            assert torch.equal(a[going_on], b[taken[going_on]])
    for name in ("action", "reward"):
        a, b = getattr(real, name), getattr(more, name)
        assert torch.equal(a[going_on], b[taken[going_on]])


def test_a_row_without_memory_of_its_own_keeps_flat_observations() -> None:
    """A Box observation carries the machine's state at its end."""

    def labels(t: Any) -> torch.Tensor:
        return torch.stack((t.next_obs[:, 0] < -0.5, t.next_obs[:, 0] > -0.5), 1)

    inner = gymnasium.make_vec("rewardzoo/MountainCar-v0", 4)
    wrapped = VectorAppendRewardState(VectorRewardWrapper(inner, RewardMachine(TOUR, labels)))
    agent = DoubleDQN(wrapped, counterfactual=True, **SMALL)
    agent.collect()
    found = stored(agent)
    assert found.obs.shape == (4 * 4 * 3, 6)
    assert torch.equal(found.obs[:, 2:].argmax(1), torch.arange(3).repeat(16))
    agent.learn(32)


def test_resuming_continues_exactly(tmp_path: Path) -> None:
    def make() -> Any:
        fn = RewardMachine(TOUR, {"l": [0], "r": [3]}, terminate=True)
        inner = gymnasium.make_vec(MAZE, 4, map=".S..", autoreset_mode="DISABLED")
        return VectorTerminateTask(VectorAppendRewardState(VectorRewardWrapper(inner, fn)))

    whole = DoubleDQN(make(), counterfactual=True, seed=3, **SMALL).learn(320)
    part = DoubleDQN(make(), counterfactual=True, seed=3, **SMALL).learn(160)
    part.save(tmp_path / "agent.pt")
    resumed = DoubleDQN.load(tmp_path / "agent.pt", env=make())
    resumed.learn(160, reset_num_timesteps=False)
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_tour_of_three_stops_is_learned_in_fewer_steps() -> None:
    """After 2,880 steps: the optimum, where learning from what happened alone has nothing yet."""
    world = {"map": "...S...", "num_envs": 8, "max_episode_steps": 40}
    cells = torch.arange(7).repeat_interleave(4)
    every = {"observation": cells, "reward_state": torch.eye(4).repeat(7, 1)}
    share: dict[bool, list[float]] = {True: [], False: []}
    for counterfactual, found in share.items():
        for seed in (0, 2):
            agent = DoubleDQN(
                envs(**world), seed=seed, counterfactual=counterfactual, gamma=GAMMA, hidden=(64,),
                learning_starts=200, batch_size=128, buffer_size=60_000, epsilon_steps=6_000,
                epsilon_end=0.1, learning_rate=3e-3, tau=0.05,
            ).learn(2_880)  # fmt: skip
            machine = agent.envs.reward_function.machine
            model = product(mdp_of(MAZE, map="...S...", slip=0.0), machine, {"l": [0], "r": [6]})
            greedy = agent.outputs(every).argmax(1)
            policy = torch.nn.functional.one_hot(greedy, model.reward.shape[1]).double()
            best = value_iteration(model, GAMMA) @ model.initial
            found.append(float(expected_return(model, policy, GAMMA) / best))
    assert min(share[True]) > 0.9 and max(share[False]) < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: envs().env, "the machine's state is not in the observation; wrap"),
        (
            lambda: VectorAppendRewardState(
                VectorRewardWrapper(
                    gymnasium.make_vec(MAZE, 4),
                    env_reward + RewardMachine(TOUR, {"l": [0], "r": [3]}),
                )
            ),
            "the reward function is objective [+] reward_machine, expected a reward machine alone",
        ),
    ],
)
def test_refuses_what_has_no_machine_to_see(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Counterfactuals(make())
    with pytest.raises(ValueError, match=message):
        DoubleDQN(make(), counterfactual=True)


def test_the_buffer_must_hold_all_rows_of_an_iteration() -> None:
    with pytest.raises(ValueError, match="buffer_size=40: expected at least 48"):
        DoubleDQN(envs(), counterfactual=True, buffer_size=40)
