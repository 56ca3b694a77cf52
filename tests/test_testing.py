"""The conformance suites: each check catches the fault that it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from rewardzoo import RewardFunction
from rewardzoo.functional_vector import FunctionalVectorEnv
from rewardzoo.rewards import Potential, env_reward
from rewardzoo.testing import check_reward, check_vector_env
from rewardzoo.testing.scripted import ScriptedEnv, ScriptedFunc, scripted_envs


class Memory(RewardFunction):
    """Right: pays the number of the step in its episode."""

    markov = False

    def bind(self, num_envs, device, spaces):
        self.count = torch.zeros(num_envs, device=device)

    def reset(self, mask, obs):
        self.count = torch.where(mask, 0.0, self.count)

    def __call__(self, t):
        self.count = torch.where(t.valid, self.count + 1, self.count)
        return self.count


class WrongShape(RewardFunction):
    def __call__(self, t):
        return t.obs


class WrongDtype(RewardFunction):
    def __call__(self, t):
        return t.reward.double()


class NotATensor(RewardFunction):
    def __call__(self, t):
        return 0.0


class NotFinite(RewardFunction):
    def __call__(self, t):
        return t.reward / 0.0


class Unseeded(RewardFunction):
    def __call__(self, t):
        return torch.rand_like(t.reward)


class WritesInput(RewardFunction):
    def __call__(self, t):
        return t.reward.mul_(2.0)


class ReadsObjective(RewardFunction):
    def __call__(self, t):
        return torch.as_tensor(t.info["objective"], dtype=torch.float32)


class ByPosition(RewardFunction):
    def __call__(self, t):
        return t.reward * torch.arange(len(t.reward), device=t.reward.device)


class BatchMean(RewardFunction):
    def __call__(self, t):
        return t.obs[:, 2] - t.obs[:, 2].mean()


class CountsDeadRows(Memory):
    def __call__(self, t):
        self.count = self.count + 1
        return self.count


class ObservesDeadRows(RewardFunction):
    def bind(self, num_envs, device, spaces):
        self.seen = torch.zeros((), device=device)

    def observe(self, t):
        self.seen = self.seen + len(t.reward)

    def __call__(self, t):
        return t.reward


class NeverClears(Memory):
    def reset(self, mask, obs):
        pass


class ClearsAll(Memory):
    def reset(self, mask, obs):
        if bool(mask.any()):
            self.count = torch.zeros_like(self.count)


class HiddenMemory(Memory):
    """Its memory is no attribute that is a tensor."""

    def bind(self, num_envs, device, spaces):
        self.memory = {"count": torch.zeros(num_envs, device=device)}

    @property
    def count(self):
        return self.memory["count"]

    @count.setter
    def count(self, value):
        self.memory["count"] = value


class UnsafeState(Memory):
    def state_dict(self):
        return {**super().state_dict(), "function": print}


class ClaimsMarkov(Memory):
    markov = True


class RelabelOfOneSize(RewardFunction):
    def bind(self, num_envs, device, spaces):
        self.weight = torch.ones(num_envs, device=device)

    def __call__(self, t):
        return t.reward * (self.weight if len(t.reward) == len(self.weight) else 2.0)


class RelabelDiffers(RewardFunction):
    def __call__(self, t):
        return t.reward

    def relabel(self, t):
        return t.reward + 1


class RelabelRefused(RewardFunction):
    def __call__(self, t):
        return t.reward

    def relabel(self, t):
        raise RuntimeError("no")


class Detached(RewardFunction):
    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)

    def __call__(self, t):
        return self.net(t.obs).squeeze(1).detach()


class UsesLastObservation(RewardFunction):
    """Takes what it saw last as the predecessor, dead steps and resets included."""

    markov = False

    def bind(self, num_envs, device, spaces):
        self.last = torch.zeros(num_envs, device=device)

    def __call__(self, t):
        paid = t.next_obs[:, 2] - self.last
        self.last = torch.where(t.valid, t.next_obs[:, 2], self.last)
        return paid


class AsksTheDevice(RewardFunction):
    def __call__(self, t):
        return t.reward * (2.0 if bool(t.done.any()) else 2.0)


class OtherDevice(RewardFunction):
    def __call__(self, t):
        return torch.zeros(len(t.reward), device="cpu")


FAULTS = [
    (WrongShape, r"wrong_shape: returned shape \(6, 4\): expected \(6,\), one number a row"),
    (WrongDtype, "wrong_dtype: returned torch.float64: expected float32; use reward.to"),
    (NotATensor, "not_atensor: returned float: expected a tensor"),
    (NotFinite, "not_finite: paid .* expected finite numbers"),
    (Unseeded, "unseeded: two runs over the same steps differ"),
    (WritesInput, "writes_input: it wrote into the transition|two runs"),
    (ReadsObjective, r"reads_objective: it reads info\['objective'\]"),
    (ByPosition, "by_position: permuting the rows does not permute the rewards"),
    (BatchMean, "batch_mean: row 0 alone is paid otherwise .* set rowwise = False"),
    (CountsDeadRows, "counts_dead_rows: a dead step .* changed its memory"),
    (ObservesDeadRows, "observes_dead_rows: a dead step .* changed its memory"),
    (NeverClears, r"never_clears: reset\(mask, obs\) leaves memory in the rows of mask"),
    (ClearsAll, r"clears_all: (reset\(mask, obs\) changes rows|row 0 alone|permuting)"),
    (HiddenMemory, "hidden_memory: loaded from state_dict.* keep all memory in attributes"),
    (UnsafeState, "unsafe_state: state_dict.* holds more than tensors"),
    (ClaimsMarkov, "claims_markov: relabel changed its memory"),
    (RelabelOfOneSize, "relabel_of_one_size: relabel depends on the size of the batch"),
    (RelabelDiffers, "relabel_differs: relabel and a call differ"),
    (RelabelRefused, "relabel_refused: relabel failed although markov is True"),
    (Detached, "detached: a call with gradients enabled gave none"),
    (UsesLastObservation, "uses_last_observation: reset"),
    (AsksTheDevice, "asks_the_device: it waits for the device"),
    (OtherDevice, "other_device: its reward is not on the device"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_check_reward_catches(fault, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_reward(fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["rewardzoo/CartPole-v0", "CartPole-v1", scripted_envs])
def test_a_right_function_with_memory_passes(env):
    report = check_reward(Memory, env)
    assert report.memory and not report.relabels and not report.truncation_matters
    assert report.skipped == ()


def test_check_reward_leaves_the_instance_as_it_was():
    fn = env_reward + Potential(lambda obs: obs[:, 0])
    check_reward(fn)
    assert fn.parts[1].gamma == "agent" and not hasattr(fn.parts[1], "_states")


def test_a_function_that_must_ask_the_host_passes_without_meta():
    check_reward(AsksTheDevice, meta=False)


def test_an_autoreset_fault_that_only_the_wrapper_shows_is_caught():
    class SeesDeadSteps(RewardFunction):
        """Its memory moves by ``obs``, which differs on the dead step."""

        markov = False

        def bind(self, num_envs, device, spaces):
            self.calls = torch.zeros(num_envs, device=device)

        def reset(self, mask, obs):
            self.calls = torch.where(mask, obs[:, 0] * 0 + self.calls + 1, self.calls)

        def __call__(self, t):
            return self.calls

    with pytest.raises(AssertionError, match="sees_dead_steps"):
        check_reward(SeesDeadSteps)


def test_something_else_than_a_reward_function_is_named():
    with pytest.raises(AssertionError, match="is no RewardFunction: give an instance"):
        check_reward(lambda: 3)


def test_unknown_env_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'rewardzoo/CartPole-v0'"):
        check_reward(Memory, "rewardzoo/CartPol-v0")


# ---- environments --------------------------------------------------------------------------------


def functional(func):
    def make(num_envs, autoreset_mode):
        return FunctionalVectorEnv(num_envs, func, autoreset_mode=autoreset_mode)

    return make


@pytest.mark.parametrize(
    "env", ["rewardzoo/CartPole-v0", "CartPole-v1", "FrozenLake-v1", "Blackjack-v1"]
)
def test_right_environments_pass(env):
    report = check_vector_env(env)
    assert report.terminated > 0
    assert report.objective == report.saves == env.startswith("rewardzoo/")


def test_scripted_environments_pass():
    assert check_vector_env(functional(ScriptedFunc)).saves
    for observation in ("box", "discrete", "dict", "tuple"):

        def make(num_envs, autoreset_mode, observation=observation):
            # All rows alike: rows of scripted_envs differ by index and not by seed.
            from gymnasium.vector import SyncVectorEnv

            makers = [lambda: ScriptedEnv((2, 3), ("terminated", "truncated"), observation)]
            return SyncVectorEnv(makers * num_envs, autoreset_mode=autoreset_mode)

        report = check_vector_env(make)
        assert report.terminated > 0 and report.truncated > 0


class OutOfSpace(ScriptedFunc):
    def observation(self, state, rng, params=None):
        return super().observation(state, rng) - 9


class NanReward(ScriptedFunc):
    def reward(self, state, action, next_state, rng, params=None):
        return super().reward(state, action, next_state, rng) / 0.0


class GlobalRandom(ScriptedFunc):
    def observation(self, state, rng, params=None):
        return super().observation(state, rng) + torch.rand(len(state.k), 1)


class RowsMixed(ScriptedFunc):
    def observation(self, state, rng, params=None):
        obs = super().observation(state, rng)
        return obs + obs.sum() + len(obs)


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (OutOfSpace, "row 0 of the observation, .* is not in single_observation_space"),
        (NanReward, "expected finite numbers"),
        (GlobalRandom, "two runs with one seed and the same actions differ"),
        (RowsMixed, "row 0 of 4 environments seeded with 0 is not the single one seeded with 0"),
    ],
)
def test_check_vector_env_catches_wrong_dynamics(func, message):
    with pytest.raises(AssertionError, match=message):
        check_vector_env(functional(func))


class Faulty(FunctionalVectorEnv):
    """A functional environment whose face does one thing wrong."""

    def __init__(self, fault, num_envs, autoreset_mode):
        super().__init__(num_envs, ScriptedFunc, autoreset_mode=autoreset_mode)
        self.fault = fault
        if fault == "mode":
            self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.buffer = None

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        dead = self.autoreset_mode is AutoresetMode.NEXT_STEP
        if self.fault == "dead pay" and dead:
            reward = reward + 1
        if self.fault == "dead end" and dead:
            truncated = truncated | (obs[:, 0] == 0)
        if self.fault == "no final_obs":
            info = {k: v for k, v in info.items() if "final_obs" not in k}
        if self.fault == "final mask" and "_final_obs" in info:
            info["_final_obs"] = torch.zeros_like(info["_final_obs"])
        if self.fault == "final_obs is the reset's" and "final_obs" in info:
            info["final_obs"] = obs
        if self.fault == "shape":
            reward = reward.unsqueeze(1)
        if self.fault == "flags":
            terminated = terminated.float()
        if self.fault == "buffer":
            self.buffer = obs if self.buffer is None else self.buffer.copy_(obs)
            obs = self.buffer
        return obs, reward, terminated, truncated, info

    def state_dict(self):
        state = super().state_dict()
        if self.fault == "forgets":
            state["carry.0"] = torch.zeros_like(state["carry.0"])
        return state


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("mode", "was asked for"),
        ("dead pay", "a dead step of NEXT_STEP autoreset was paid"),
        ("dead end", "a dead step of NEXT_STEP autoreset ended an episode"),
        ("no final_obs", r"without info\['final_obs'\]"),
        ("final mask", r"info\['_final_obs'\] is not terminated \| truncated"),
        ("final_obs is the reset's", "NEXT_STEP and SAME_STEP give different transitions"),
        ("shape", r"reward has shape \(4, 1\): expected \(4,\)"),
        ("flags", r"terminated is torch.float32 \(4,\): expected \(4,\) bool"),
        ("buffer", "wrote into the observation tensor that the step before returned"),
        ("forgets", "loaded from state_dict.* continues differently"),
    ],
)
def test_check_vector_env_catches_a_wrong_face(fault, message):
    def make(num_envs, autoreset_mode):
        return Faulty(fault, num_envs, autoreset_mode)

    with pytest.raises(AssertionError, match=message):
        check_vector_env(make)


def test_report_counts_both_ends():
    report = check_vector_env("rewardzoo/CartPole-v0", num_envs=2, steps=40)
    assert report.truncated > 0 and np.isfinite(report.terminated)
