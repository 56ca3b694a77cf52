"""Offline dueling DQN: its targets by hand, its target network apart, a chain it must solve."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import rewardzoo  # noqa: F401
from rewardzoo.agents.common.logged import LoggedEpisodes, log_episodes
from rewardzoo.agents.dueling_dqn import DuelingDQN, DuelingNetwork, double_target, n_step, td_loss


def chain(count: int = 400, seed: int = 0) -> LoggedEpisodes:
    """States 0 to 4; action 1 goes right, 0 left; reaching 4 pays 1; actions are uniform."""
    g = torch.Generator().manual_seed(seed)
    longest = 60
    obs = torch.zeros(count, longest + 1, dtype=torch.int64)
    action = torch.randint(2, (count, longest), generator=g)
    valid = torch.zeros(count, longest, dtype=torch.bool)
    reward = torch.zeros(count, longest)
    alive = torch.ones(count, dtype=torch.bool)
    for t in range(longest):
        valid[:, t] = alive
        move = 2 * action[:, t] - 1
        obs[:, t + 1] = torch.where(alive, (obs[:, t] + move).clamp(0, 4), obs[:, t])
        arrived = alive & (obs[:, t + 1] == 4)
        reward[:, t] = arrived.float()
        alive = alive & ~arrived
    return LoggedEpisodes(obs, action, reward, valid, ~alive)


def test_n_step_targets_by_hand() -> None:
    """Two episodes: three steps to a terminal state, and one step that was cut off."""
    episodes = LoggedEpisodes(
        obs=torch.tensor([[10, 11, 12, 13], [20, 21, 0, 0]]),
        action=torch.tensor([[1, 0, 1], [1, 0, 0]]),
        reward=torch.tensor([[1.0, 2.0, 4.0], [8.0, 99.0, 99.0]]),
        valid=torch.tensor([[True, True, True], [True, False, False]]),
        terminated=torch.tensor([True, False]),
    )
    steps = n_step(episodes, 2, 0.5)
    assert steps.states[steps.now].tolist() == [10, 11, 12, 20]
    assert steps.states[steps.then].tolist() == [12, 13, 13, 21]
    assert steps.reward.tolist() == [2.0, 4.0, 4.0, 8.0]
    assert steps.discount.tolist() == [0.25, 0.0, 0.0, 0.5]
    assert steps.action.tolist() == [1, 0, 1, 1]


def test_double_target_and_loss_by_hand() -> None:
    online = torch.tensor([[1.0, 3.0], [5.0, 2.0], [0.0, 1.0]])
    target = torch.tensor([[10.0, 4.0], [7.0, 100.0], [0.0, 90.0]])
    reward = torch.tensor([1.0, 2.0, 3.0])
    found = double_target(reward, torch.tensor([0.5, 0.0, 1.0]), online, target, limit=20.0)
    assert found.tolist() == [3.0, 2.0, 20.0]
    loss = td_loss(
        torch.tensor([1.0, 22.0]), torch.tensor([3.0, 20.0]), torch.tensor([0.5, 1.0]), 20.0, 5.0
    )
    assert float(loss) == pytest.approx((0.5 * 4 + 4) / 2 + 5 * 2)


def test_the_target_network_is_not_the_online_network() -> None:
    """It shares no memory, gets no gradient, and moves by tau towards the online one."""
    agent = DuelingDQN(chain(20), 2, torch.eye(5), tau=0.1, learning_rate=0.01, batch_size=32)
    pointers = {p.data_ptr() for p in agent.online.parameters()}
    assert not pointers & {p.data_ptr() for p in agent.target.parameters()}
    before = [p.clone() for p in agent.target.parameters()]
    agent.learn(1)
    moved = False
    for old, target, online in zip(
        before, agent.target.parameters(), agent.online.parameters(), strict=True
    ):
        torch.testing.assert_close(target, old.lerp(online, 0.1))
        assert target.grad is None and not target.requires_grad
        moved |= not torch.equal(old, online)
    assert moved


def test_a_frozen_target_learns_one_step_of_value_iteration() -> None:
    """With tau 0 values stop at the fixed point of a constant bootstrap; a shared network's do not.

    The frozen target values everything 0 (its last layers are zeroed), so only the step that is
    paid is worth anything.
    """
    agent = DuelingDQN(
        chain(),
        2,
        torch.eye(5),
        tau=0.0,
        n_step=1,
        learning_rate=3e-3,
        batch_size=64,
        beta=1.0,
        hidden=(32,),
        stream=16,
    )
    for stream in (agent.target.value, agent.target.advantage):
        torch.nn.init.zeros_(stream[-1].weight)
        torch.nn.init.zeros_(stream[-1].bias)
    agent.learn(400)
    q = agent.q_values(torch.arange(4))
    want = torch.tensor([[0.0, 0], [0, 0], [0, 0], [0, 1]])
    torch.testing.assert_close(q, want, atol=0.1, rtol=0)


def test_solves_the_chain_from_uniform_behaviour() -> None:
    agent = DuelingDQN(
        chain(),
        2,
        torch.eye(5),
        n_step=1,
        tau=0.02,
        learning_rate=3e-3,
        gamma=0.9,
        batch_size=64,
        hidden=(32,),
        stream=16,
    ).learn(800)
    q = agent.q_values(torch.arange(4))
    assert q.argmax(1).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(q[:, 1], torch.tensor([0.9**3, 0.9**2, 0.9, 1.0]), atol=0.1, rtol=0)
    assert agent.predict(2)[0] == 1 and agent.predict([0, 3])[0].tolist() == [1, 1]


def test_the_streams_identify_value_and_advantage() -> None:
    network = DuelingNetwork(3, 4, (8,), 6).eval()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            network(x).mean(1, keepdim=True), network.value(network.shared(x)), atol=1e-6, rtol=1e-5
        )


def test_priorities_decide_what_is_drawn_and_weights_undo_them() -> None:
    agent = DuelingDQN(chain(50), 2, torch.eye(5), batch_size=4096, beta=1.0)
    count = len(agent.priority)
    agent._prioritise(torch.arange(count), torch.arange(count) + 1.0)
    rows, weight = agent._sample()
    chance = agent.priority / agent.priority.sum()
    seen = torch.bincount(rows, minlength=count) / len(rows)
    assert float((seen - chance).abs().max()) < 2 / len(rows)  # whole strata and a part at each end
    product = weight.double() * chance[rows]
    torch.testing.assert_close(product, product[:1].expand_as(product), rtol=1e-5, atol=0)


def test_save_load_continue_is_never_stopped(tmp_path: Path) -> None:
    settings = {"learning_rate": 0.01, "batch_size": 32}
    whole = DuelingDQN(chain(30), 2, torch.eye(5), **settings).learn(20)
    half = DuelingDQN(chain(30), 2, torch.eye(5), **settings).learn(8)
    half.save(tmp_path / "agent.pt")
    resumed = DuelingDQN.load(tmp_path / "agent.pt", chain(30), torch.eye(5)).learn(12)
    for a, b in zip(whole.online.parameters(), resumed.online.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.num_updates == 20
    with pytest.raises(ValueError, match="the checkpoint .* was made with"):
        DuelingDQN.load(tmp_path / "agent.pt", chain(31), torch.eye(5))


def test_logged_episodes_end_where_they_end() -> None:
    """Padding is marked, not guessed from zeros; the lengths and returns are the model's."""
    from rewardzoo.envs.sepsis.data import tables

    policy = torch.tensor(tables().expert_policy)
    episodes = log_episodes(
        gymnasium.make_vec("rewardzoo/SepsisICU-v0", num_envs=4000), policy, seed=3
    )
    assert bool(episodes.terminated.all())
    last = episodes.obs.gather(1, episodes.length.unsqueeze(1)).squeeze(1)
    assert bool((last >= 713).all())
    survived = episodes.reward.sum(1)
    assert torch.equal(survived, (last == 714).float())
    assert abs(float(survived.mean()) - 0.781845) < 5 * np.sqrt(0.78 * 0.22 / 4000)
    assert abs(float(episodes.length.float().mean()) - 9.24) < 5 * 8 / np.sqrt(4000)
    assert bool((policy[episodes.obs[:, :-1], episodes.action][episodes.valid] > 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_step": 0}, "n_step=0"),
        ({"tau": 2.0}, "tau=2.0"),
        ({"learning_rat": 1.0}, "learning_rate"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        DuelingDQN(chain(5), 2, torch.eye(5), **settings)


def test_no_steps_is_an_error() -> None:
    episodes = chain(5)._replace(valid=torch.zeros(5, 60, dtype=torch.bool))
    with pytest.raises(ValueError, match="no valid step"):
        DuelingDQN(episodes, 2, torch.eye(5))
