"""Advice on actions and changing potentials keep the optimum, and do what their papers say."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from rewardzoo import RewardFunction, Transition, VectorRewardWrapper
from rewardzoo.rewards import Potential, RewardError, Spaces, env_reward
from rewardzoo.rewards.advice import AsPotential, LookBackAdvice
from rewardzoo.rewards.dynamic_potential import DynamicPotential
from rewardzoo.testing.rewards import check_reward

GRID = "rewardzoo/GridWorld-v0"
CPU = torch.device("cpu")
TWELVE = Spaces(spaces.Discrete(12), spaces.Discrete(4))
LEVEL = torch.arange(12.0)


class Entering(RewardFunction):
    """An auxiliary reward: 1 on entering an even cell."""

    def __call__(self, t):
        return (t.next_obs % 2 == 0).to(torch.float32)


def step(s, a, s2, terminated=False, truncated=False, valid=True):
    """A batch of one."""
    no = torch.tensor([False])
    return Transition(
        torch.tensor([s]), torch.tensor([a]), torch.tensor([s2]), torch.zeros(1),
        no | terminated, no | truncated, no | valid, torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: DynamicPotential(lambda s: LEVEL.to(s.device)[s], 0.9),
        lambda: DynamicPotential(lambda s: LEVEL.to(s.device)[s], 0.9, "stored"),
        lambda: LookBackAdvice(np.arange(48).reshape(12, 4) / 10, 0.9),
        lambda: LookBackAdvice(lambda s, a: s * 0.1 - a, 0.9),
        lambda: AsPotential(Entering(), 0.9),
    ],
)
def test_conforms(make):
    check_reward(make, GRID)


# ---- look-back -----------------------------------------------------------------------------------


def test_look_back_of_an_ended_episode_sums_to_0_and_of_a_cut_one_to_its_last_advice():
    rng, gamma = np.random.default_rng(0), 0.9
    table = torch.tensor(rng.normal(size=(12, 4)), dtype=torch.float32)
    fn = LookBackAdvice(table, gamma)
    fn.bind(1, CPU, TWELVE)
    for end in ("terminated", "truncated"):
        fn.reset(torch.tensor([True]), torch.tensor([0]))
        path = [(int(s), int(a)) for s, a in zip(rng.integers(12, size=8), rng.integers(4, size=8), strict=True)]  # fmt: skip
        total = 0.0
        for k, (s, a) in enumerate(path):
            last = {end: True} if k == 7 else {}
            total += gamma**k * fn(step(s, a, 0, **last)).item()
        want = 0.0 if end == "terminated" else gamma**7 * float(table[path[-1]])
        assert total == pytest.approx(want, abs=1e-5)


def test_look_back_orders_plans_as_the_objective_does_and_bare_look_ahead_does_not():
    """Every plan of three steps of a problem that ends: the same return, to rounding."""
    gamma = 0.9
    table = torch.tensor(np.random.default_rng(1).normal(size=(12, 4)) * 5.0, dtype=torch.float32)
    fn = LookBackAdvice(table, gamma)
    fn.bind(1, CPU, TWELVE)
    ahead = set()
    for plan in itertools.product(range(4), repeat=3):
        fn.reset(torch.tensor([True]), torch.tensor([0]))
        paid = [fn(step(k, a, k + 1, terminated=k == 2)).item() for k, a in enumerate(plan)]
        assert sum(gamma**k * r for k, r in enumerate(paid)) == pytest.approx(0.0, abs=1e-5)
        advice = [float(table[k, a]) for k, a in enumerate(plan)] + [0.0]
        ahead.add(round(sum(gamma**k * (gamma * advice[k + 1] - advice[k]) for k in range(3)), 4))
    assert len(ahead) == 4  # minus the advice on the first action, whatever follows


def test_features_are_what_the_next_step_is_charged():
    fn = LookBackAdvice(lambda s, a: s + 10.0 * a, 0.5)
    fn.bind(1, CPU, TWELVE)
    fn.reset(torch.tensor([True]), torch.tensor([3]))
    assert fn.observation_features().tolist() == [[0.0]]
    assert fn(step(3, 1, 4)).item() == 13.0
    assert fn.observation_features().tolist() == [[26.0]]
    assert fn(step(4, 0, 5)).item() == 4.0 - 26.0


# ---- any reward as a potential -------------------------------------------------------------------


def test_learned_advice_is_the_value_of_minus_the_reward_and_pays_it_one_step_late():
    """On a ring of 4 cells, always onwards: phi solves its Bellman equation, pay is the reward."""
    gamma = 0.8
    fn = AsPotential(Entering(), gamma, learning_rate=0.5)
    fn.bind(1, CPU, Spaces(spaces.Discrete(4), spaces.Discrete(1)))
    fn.reset(torch.tensor([True]), torch.tensor([0]))
    for k in range(800):
        t = step(k % 4, 0, (k + 1) % 4)
        paid = fn(t).item()
        fn.observe(t)
        fn.update()
        assert fn.version == k + 1
    # V(odd) = -1 + gamma V(even), V(even) = gamma V(odd)
    odd = -1.0 / (1.0 - gamma**2)
    assert fn.phi.tolist() == pytest.approx([gamma * odd, odd, gamma * odd, odd], abs=1e-5)
    # The last step was 3 -> 0, the one before 2 -> 3, which entered an odd cell: nothing.
    assert paid == pytest.approx(0.0, abs=1e-5)
    t = step(0, 0, 1)  # after 3 -> 0, which entered an even one
    assert fn(t).item() == pytest.approx(1.0 / gamma, abs=1e-5)


def test_a_last_step_is_learned_as_one_and_a_cut_one_is_not():
    fn = AsPotential(Entering(), 0.5, learning_rate=1.0)
    fn.bind(1, CPU, TWELVE)
    for s, end in ((1, "terminated"), (3, "truncated")):
        fn.reset(torch.tensor([True]), torch.tensor([s]))
        t = step(s, 0, 2, **{end: True})
        fn(t)
        fn.observe(t)
    fn.update()
    table = fn.phi.view(12, 4)
    assert table[1, 0] == -1.0 and table[3, 0] == 0.0


def test_learned_advice_keeps_the_sum_of_ended_episodes_at_0_while_it_changes():
    fn = AsPotential(Entering(), 0.9)
    envs = VectorRewardWrapper(gymnasium.make_vec(GRID, num_envs=8), env_reward + fn)
    envs.reset(seed=0)
    sums, ended = torch.zeros(8, dtype=torch.float64), 0
    power = torch.ones(8, dtype=torch.float64)
    torch.manual_seed(0)
    for k in range(300):
        _, _, terminated, truncated, info = envs.step(torch.randint(4, (8,)))
        sums += power * info["reward_terms"]["as_potential"]
        power *= 0.9
        if bool(terminated.any()):
            # float32 payments of size about 5, of at most 100 steps
            assert sums[terminated].abs().max() < 1e-4
            ended += int(terminated.sum())
        done = terminated | truncated
        sums[done], power[done] = 0.0, 1.0
        if k % 10 == 9:
            fn.update()
    assert ended > 20 and fn.phi.abs().max() > 0.1


# ---- changing potentials -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_sums_telescope_while_the_potential_changes_in_every_mode(mode):
    gamma, n = 0.9, 4
    level = torch.tensor(1.0)
    fn = DynamicPotential(lambda s: level * (s + 1.0), gamma)
    envs = VectorRewardWrapper(
        gymnasium.make_vec(GRID, n, autoreset_mode=mode, max_episode_steps=9), fn
    )
    obs, _ = envs.reset(seed=0)
    first = level * (obs + 1.0)
    sums, power, ends = torch.zeros(n), torch.ones(n), set()
    torch.manual_seed(0)
    for _ in range(60):
        level.mul_(1.02)
        obs, reward, terminated, truncated, _ = envs.step(torch.randint(4, (n,)))
        t = envs.transition
        assert not reward[~t.valid].any()
        sums += power * reward
        power = torch.where(t.valid, power * gamma, power)
        last = torch.where(terminated, 0.0, level * (t.next_obs + 1.0))
        done = (terminated | truncated) & t.valid
        # float32 sums of size about 40
        assert torch.allclose(sums[done], (power * last - first)[done], atol=1e-3)
        ends |= {str(e) for e in terminated[done].tolist()}
        if mode is AutoresetMode.DISABLED and bool(done.any()):
            obs, _ = envs.reset(options={"reset_mask": done})
        began = ~t.valid if mode is AutoresetMode.NEXT_STEP else done
        first = torch.where(began, level * (obs + 1.0), first)
        sums, power = (torch.where(began, x, y) for x, y in ((0.0, sums), (1.0, power)))
    assert ends == {"True", "False"}


def test_with_a_still_potential_it_is_potential_shaping():
    table = torch.tensor(np.random.default_rng(0).normal(size=12), dtype=torch.float32)
    made = [DynamicPotential(lambda s: table[s], 0.9), Potential(table, 0.9)]
    paid = []
    for fn in made:
        envs = VectorRewardWrapper(gymnasium.make_vec(GRID, 6), fn)
        envs.reset(seed=1)
        torch.manual_seed(1)
        paid.append(torch.stack([envs.step(torch.randint(4, (6,)))[1] for _ in range(150)]))
    assert torch.equal(*paid)


def test_current_takes_both_potentials_anew_and_stored_refuses():
    level = torch.tensor(1.0)
    fn = DynamicPotential(lambda s: level * s, 0.5)
    fn.bind(1, CPU, TWELVE)
    fn.reset(torch.tensor([True]), torch.tensor([2]))
    level.fill_(10.0)
    t = step(2, 0, 4)
    assert fn.relabel(t).item() == 0.5 * 40 - 20  # not 0.5 * 40 - 2: two ages
    assert fn(t).item() == 0.5 * 40 - 2
    with pytest.raises(RuntimeError, match="stored transitions keep what was paid"):
        DynamicPotential(lambda s: s, 0.5, relabel="stored").relabel(t)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DynamicPotential([1.0]), ValueError, r"phi=\[1.0\]: expected a function"),
        (lambda: DynamicPotential(abs, 0.9, "new"), ValueError, "relabel='new': expected one of"),
        (lambda: LookBackAdvice([[1.0]], 0.0), ValueError, "gamma=0.0: look-back advice divides"),
        (lambda: LookBackAdvice([1.0], 0.9), ValueError, r"phi: a table \(1,\), expected \(S, A\)"),
        (lambda: LookBackAdvice("abc", 0.9), ValueError, "phi='abc': expected a function or"),
        (lambda: LookBackAdvice([[1.0]], 0.9).bind(1, CPU, TWELVE), ValueError, r"expected \(12, 4\)"),
        (lambda: AsPotential(3.0), TypeError, "inner=3.0: expected a reward function"),
        (lambda: AsPotential(Entering(), 0.9, 0.0), ValueError, "learning_rate=0.0"),
        (
            lambda: AsPotential(Entering()).bind(
                1, CPU, Spaces(spaces.Box(0.0, 1.0), spaces.Discrete(2))
            ),
            ValueError,
            "as_potential needs Discrete observations and actions",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_advice_of_a_wrong_shape_is_named():
    for fn in (DynamicPotential(lambda s: s[:, None], 0.9), LookBackAdvice(lambda s, a: 1.0, 0.9)):
        fn.bind(1, CPU, TWELVE)
        with pytest.raises(RewardError, match="phi: returned"):
            fn(step(0, 0, 1))
