"""RewardFunction: names, discounts, saving, and that every registered function conforms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rewardzoo import RewardFunction, register_reward
from rewardzoo.registration import REWARDS
from rewardzoo.rewards import Clip, Novelty, Potential, Spaces, env_reward, make_reward
from rewardzoo.testing import check_reward
from rewardzoo.testing.scripted import ScriptedEnv

# Constructor arguments of those that need some; every other registered function is made bare.
ARGUMENTS = {
    "clip": "clip(objective, 0, 0.5)",
    "delay": "delay(objective, 3)",
    "normalise": "normalise(objective)",
    "novelty": "novelty(resolution=0.1)",
    "schedule": "schedule(objective, 60)",
}
CORE = ["clip", "delay", "normalise", "novelty", "objective", "potential", "schedule"]


def pole_angle(obs):
    return obs[:, 2]


def make(name):
    return Potential(pole_angle) if name == "potential" else make_reward(ARGUMENTS.get(name, name))


@pytest.mark.parametrize("env", ["rewardzoo/CartPole-v0", "CartPole-v1"])
@pytest.mark.parametrize("name", CORE)
def test_registered_reward_conforms(name, env):
    report = check_reward(lambda: make(name), env)
    assert report.truncation_matters == (name == "potential")
    assert report.relabels == (name != "delay")


def test_core_rewards_are_registered_under_the_names_that_they_carry():
    assert set(CORE) <= set(REWARDS)
    assert all(REWARDS[name].registered_name == name for name in CORE)
    assert env_reward.name == "objective"


def test_name_of_an_unregistered_class_is_its_own_in_snake_case():
    class TwoWords(Novelty):
        pass

    assert TwoWords().name == "two_words", "a subclass must not go by its parent's name"


def test_registering_a_name_twice_raises():
    with pytest.raises(ValueError, match="'novelty' is registered twice"):

        @register_reward("novelty")
        class Other(RewardFunction):
            pass


def test_agent_discount_is_taken_and_a_different_one_refused():
    fn = env_reward + 0.1 * Potential(pole_angle)
    fn.match_gamma(0.9)
    assert [f.gamma for f in fn.functions() if f.gamma is not None] == [0.9]
    with pytest.raises(ValueError, match="gamma=0.9 of reward function potential: the agent's is"):
        fn.match_gamma(0.99)


def test_agent_discount_that_never_came_is_one_clear_error():
    with pytest.raises(ValueError, match="no agent has given its discount; give a number"):
        check = Potential(pole_angle)
        check.check_gamma()


class Learned(RewardFunction):
    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Linear(1, 1)
        self.optimiser = torch.optim.Adam(self.net.parameters(), 0.1)

    def bind(self, num_envs, device, spaces):
        self.count = torch.zeros(num_envs)
        super().bind(num_envs, device, spaces)

    def update(self):
        loss = self.net(torch.ones(1, 1)).square().sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.version += 1
        return {"loss": loss.detach()}


def bound(fn, num_envs=2):
    space = ScriptedEnv()
    fn.bind(num_envs, torch.device("cpu"), Spaces(space.observation_space, space.action_space))
    return fn


def test_state_dict_is_a_snapshot_and_loading_it_twice_gives_the_same_future():
    fn = bound(env_reward + Learned())
    fn.update()
    state = fn.state_dict()
    want = [float(fn.update()["parts.1/loss"]) for _ in range(3)]
    futures = []
    for _ in range(2):
        other = bound(env_reward + Learned())
        other.load_state_dict(state)
        futures.append([float(other.update()["parts.1/loss"]) for _ in range(3)])
    assert futures[0] == futures[1] == want
    assert other.parts[1].version == 4


def test_state_of_another_function_or_number_of_rows_is_refused():
    state = bound(Learned(), 2).state_dict()
    with pytest.raises(ValueError, match=r"learned: count is \(2,\), expected \(3,\)"):
        bound(Learned(), 3).load_state_dict(state)
    with pytest.raises(ValueError, match="state_dict of novelty: keys"):
        bound(Novelty()).load_state_dict(state)


def test_parameter_stays_the_object_that_the_optimiser_holds():
    class Bare(RewardFunction):
        def __init__(self):
            self.weight = nn.Parameter(torch.ones(1))

    fn = bound(Bare())
    weight = fn.weight
    state = fn.state_dict()
    state["weight"] += 1
    fn.load_state_dict(state)
    assert fn.weight is weight and weight.item() == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(env_reward, 1, 0), "high=0: expected a number above low=1"),
        (lambda: Clip(env_reward, float("nan")), "low=nan: expected a finite number"),
        (lambda: env_reward * float("inf"), "weight=inf: expected a finite number"),
        (lambda: Potential(pole_angle, 1.2), r"gamma=1.2: expected a finite number in \[0, 1\] \("),
        (lambda: Potential([[1.0]]), r"phi: a table of shape \(1, 1\), expected \(S,\) finite"),
        (lambda: Potential([1.0, float("nan")]), "expected .* finite numbers"),
        (lambda: Novelty(resolution=0.0), "resolution=0.0: expected a number > 0"),
        (lambda: Novelty(buckets=1.5), "buckets=1.5: expected an integer >= 2"),
        (lambda: make_reward("delay(objective, 0)"), "k=0: expected an integer >= 1"),
        (lambda: make_reward("schedule(objective, -1)"), "steps=-1: expected an integer >= 1"),
        (lambda: make_reward("normalise(objective, epsilon=-1)"), "epsilon=-1: .* >= 0"),
    ],
)
def test_bad_constructor_argument_is_one_line_that_names_it(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
