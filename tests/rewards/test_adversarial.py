"""AdversarialReward: closed forms of its optimum, absorbing states, what pays and what learns."""

from __future__ import annotations

import math
import re
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from rewardzoo import Transition
from rewardzoo.rewards import Spaces
from rewardzoo.rewards.adversarial import AdversarialReward
from rewardzoo.rewards.adversarial_score import (
    FORMS,
    LossWeights,
    Minibatch,
    ScoreNetwork,
    discriminator_loss,
)
from rewardzoo.rewards.lipschitz import gradient_norm
from rewardzoo.rewards.row_memory import Encoding, Moments, RowMemory
from rewardzoo.testing import check_reward

GAMMA = 0.9
BOX = Spaces(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-2.0, 2.0, (2,), np.float32))
PLAIN = LossWeights(coef=0.0, k=1.0, one_sided=True, entropy=0.0)


def demonstrations(rows=80, obs=3, action=2, mean=0.0, every=10, seed=0):
    rng = torch.Generator().manual_seed(seed)
    ended = torch.arange(rows) % every == every - 1
    return SimpleNamespace(
        obs=mean + torch.randn(rows, obs, generator=rng),
        action=2.0 * torch.rand(rows, action, generator=rng) - 1.0,
        next_obs=mean + torch.randn(rows, obs, generator=rng),
        terminated=ended,
        truncated=torch.zeros_like(ended),
    )


def far_out(demos):
    demos.action[7] = 100.0
    return demos


def step(rows, mean=0.0, terminated=False, truncated=False, valid=None, seed=0):
    rng = torch.Generator().manual_seed(seed)
    yes = torch.ones(rows, dtype=torch.bool)
    return Transition(
        obs=mean + torch.randn(rows, 3, generator=rng),
        action=4.0 * torch.rand(rows, 2, generator=rng) - 2.0,
        next_obs=mean + torch.randn(rows, 3, generator=rng),
        reward=torch.zeros(rows),
        terminated=yes & terminated,
        truncated=yes & truncated,
        valid=yes if valid is None else valid,
        episode_step=torch.zeros(rows, dtype=torch.int64),
    )


def made(num_envs=8, demos=None, **options):
    options = {"hidden": (16, 16), "memory": 64, "gamma": GAMMA, **options}
    fn = AdversarialReward(demonstrations() if demos is None else demos, **options)
    fn.bind(num_envs, torch.device("cpu"), BOX)
    return fn


def constant(fn, score):
    """The same score for everything."""
    fn.network.flat[-17:] = 0.0  # the head
    fn.network.flat[-1] = score
    fn.network.freeze()
    return fn


# ---- the loss ------------------------------------------------------------------------------------


def counted(agent, expert, label, weights=PLAIN):
    """The scores of a finite space that minimise the loss on so many rows of each side."""
    rows = [torch.arange(len(n)).repeat_interleave(n) for n in (agent, expert)]
    one_hot = [functional.one_hot(r, len(agent)).double() for r in rows]
    f = torch.zeros(len(agent), dtype=torch.float64, requires_grad=True)
    batch = Minibatch(*one_hot, torch.full((len(rows[1]),), label).double(), one_hot[0])
    optimizer = torch.optim.LBFGS([f], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss, _ = discriminator_loss(lambda x: x @ f, batch, weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    return f.detach()


@pytest.mark.parametrize("label", [1.0, 0.95])
def test_the_best_score_is_the_log_ratio_of_probabilities_shrunk_by_smoothing(label):
    agent, expert = torch.tensor([1, 2, 3, 4]), torch.tensor([4, 3, 2, 1])
    p_agent, p_expert = agent / 10.0, expert / 10.0
    wanted = label * p_expert / (p_expert + p_agent)
    found = counted(agent, expert, label)
    torch.testing.assert_close(found.sigmoid(), wanted.double(), rtol=1e-5, atol=1e-6)
    if label == 1.0:
        log_ratio = (p_expert / p_agent).log().double()
        torch.testing.assert_close(found, log_ratio, rtol=1e-5, atol=1e-6)


def test_perfect_separation_gives_the_mean_label_not_one():
    found = counted(torch.tensor([5, 0]), torch.tensor([0, 5]), 0.95)
    assert found[1].sigmoid().item() == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("label", [1.0, 0.95])
def test_where_the_agents_rows_are_partly_the_experts_the_best_score_is_that_part(label):
    eta, agent, expert = 0.2, torch.tensor([1, 2, 3, 4]), torch.tensor([4, 3, 2, 1])
    found = counted(agent, expert, label, PLAIN._replace(positive_share=eta))
    wanted = eta * label * expert / agent
    torch.testing.assert_close(found.sigmoid(), wanted.double(), rtol=1e-5, atol=1e-6)


def test_a_risk_of_unlabelled_rows_that_is_negative_counts_as_none():
    f = torch.tensor([-9.0, -8.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    rows, label, eta = torch.eye(4, dtype=torch.float64), torch.full((2,), 0.9).double(), 0.25
    batch = Minibatch(rows[:2], rows[2:], label, rows[:2])
    weights = PLAIN._replace(positive_share=eta)
    loss, _ = discriminator_loss(lambda x: x @ f, batch, weights)
    positive = functional.binary_cross_entropy_with_logits(f[2:], label)
    torch.testing.assert_close(loss, eta * positive)
    assert torch.autograd.grad(loss, f)[0][:2].tolist() == [0.0, 0.0]


def test_equal_sides_are_paid_by_the_smoothing_alone():
    found = counted(torch.tensor([2, 3]), torch.tensor([2, 3]), 0.95)
    wanted = math.log(0.95 / (2.0 - 0.95))
    torch.testing.assert_close(FORMS["airl"](found), torch.full_like(found, wanted))


def test_the_entropy_pushes_scores_towards_zero_by_its_true_gradient():
    f = torch.linspace(-3.0, 3.0, 8, dtype=torch.float64, requires_grad=True)
    rows, labels = torch.eye(8, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    batch = Minibatch(rows[:4], rows[4:], labels, rows[:4])
    c = 0.3
    by_f = [
        torch.autograd.grad(discriminator_loss(lambda x: x @ f, batch, w)[0], f)[0]
        for w in (PLAIN, PLAIN._replace(entropy=c))
    ]
    s = f.sigmoid()
    torch.testing.assert_close(by_f[1] - by_f[0], (c * f * s * (1.0 - s) / 8.0).detach())


def test_rewards_are_the_three_logarithms_and_one_lipschitz_in_the_score():
    f = torch.linspace(-12.0, 12.0, 201, dtype=torch.float64)
    d = f.sigmoid()
    torch.testing.assert_close(FORMS["minimax"](f), -(1.0 - d + 1e-8).log(), rtol=0, atol=2e-3)
    torch.testing.assert_close(FORMS["nonsaturating"](f), d.log())
    total = FORMS["minimax"](f) + FORMS["nonsaturating"](f)
    torch.testing.assert_close(FORMS["airl"](f), total)
    for form in FORMS.values():
        assert bool((form(f).diff().abs() <= f.diff() * (1.0 + 1e-12)).all())
    assert float(FORMS["minimax"](torch.tensor(500.0))) == pytest.approx(18.42, abs=0.01)


# ---- the network ---------------------------------------------------------------------------------


def test_spectral_norm_gives_hidden_layers_slope_one_and_leaves_the_head():
    network = ScoreNetwork(6, (24, 24), spectral_norm=True, seed=0)
    network.flat.mul_(7.0)
    directions = network.directions
    for _ in range(200):
        parts, directions = network.weights(network.flat, directions)
    plain = network._layers(network.flat)
    for i in (0, 2):
        assert torch.linalg.matrix_norm(parts[i], 2).item() == pytest.approx(1.0, abs=1e-3)
    assert torch.equal(parts[4], plain[4])


def test_paying_neither_learns_nor_advances_the_power_iteration():
    fn, t = made(), step(8)
    before = fn.state_dict()
    with torch.enable_grad():
        obs = t.obs.requires_grad_()
        first, second = fn(t), fn(t)
        (by_obs,) = torch.autograd.grad(first.sum(), obs)
    assert torch.equal(first, second)
    assert by_obs.abs().sum() > 0.0  # of the inputs there is a gradient,
    assert not any(p.requires_grad for p in fn.network.parameters())  # of the parameters none
    after = fn.state_dict()
    assert all(torch.equal(before["network"][k], after["network"][k]) for k in before["network"])


# ---- absorbing states ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_with_a_constant_score_death_is_worth_as_much_as_life(form):
    fn = constant(made(form=form), 0.7)
    r = FORMS[form](torch.tensor(0.7)).item()
    dies, lives, cut = fn(step(4, terminated=True)), fn(step(4)), fn(step(4, truncated=True))
    torch.testing.assert_close(dies, torch.full((4,), r / (1.0 - GAMMA)))
    torch.testing.assert_close(lives, torch.full((4,), r))
    assert torch.equal(cut, lives)  # cut off is not dead: its future is the critic's to guess


def test_without_absorbing_states_they_differ_by_all_that_would_come():
    fn = constant(made(absorbing=False), 0.7)
    r = FORMS["minimax"](torch.tensor(0.7)).item()
    torch.testing.assert_close(fn(step(4, terminated=True)), torch.full((4,), r))
    assert fn.gamma is None


@pytest.mark.parametrize("state_only", [False, True])
def test_every_terminated_row_is_followed_by_one_absorbing_row_in_minibatches(state_only):
    fn = made(memory=64, demos=demonstrations(80, every=10), state_only=state_only)
    for i in range(8):
        fn.observe(step(8, terminated=i < 2, seed=i))  # 16 of 64
    batch = fn.minibatches(50, 400)
    for x, share in ((batch.agent, 16 / 80), (batch.expert, 8 / 88)):
        found = (x == fn._absorbed).all(-1).float().mean().item()
        assert found == pytest.approx(share, abs=5.0 * math.sqrt(share / 20_000))


def test_a_terminated_row_leads_to_the_absorbing_state_when_states_alone_are_scored():
    fn = made(state_only=True)
    x = fn._standard(fn._rows(step(4, terminated=True)))
    assert torch.equal(x[:, 4:], fn._absorbed[4:].expand(4, -1)) and not x[:, 3].any()


# ---- learning ------------------------------------------------------------------------------------


def trained(updates=12, mean=3.0, **options):
    options = {"learning_rate": 5e-3, **options}
    fn = made(demos=demonstrations(mean=mean, every=1000), **options)
    for i in range(updates):
        for j in range(4):
            fn.observe(step(8, seed=100 * i + j))
        metrics = fn.update()
    return fn, metrics


def test_it_learns_to_pay_the_experts_rows_more():
    fn, metrics = trained()
    assert float(metrics["accuracy_agent"]) > 0.9 and float(metrics["accuracy_expert"]) > 0.9
    assert fn.relabel(step(64, mean=3.0)).mean() > fn.relabel(step(64)).mean()
    assert fn.version == 12


def test_the_penalty_holds_the_slope_that_grows_without_it():
    held, free = (
        trained(updates=15, spectral_norm=False, penalty=p)[1]["violation"]
        for p in ("wgan", "none")
    )
    assert float(held) < 0.1 < float(free)


def test_standardising_comes_before_clamping_and_the_penalty_sees_beyond_the_clamp():
    fn = made(demos=demonstrations(mean=1000.0))
    x = fn._standard(fn._rows(step(8, mean=1000.0)))
    assert x.abs().max() < 5.0  # raw, every coordinate would be clamped
    far = torch.full((4, x.shape[1]), 50.0)
    assert bool((gradient_norm(fn.network, far) > 0.0).all())


def test_saved_loaded_and_continued_equals_never_stopped():
    fn, _ = trained(3)
    other = made(demos=demonstrations(mean=3.0, every=1000), learning_rate=5e-3)
    other.load_state_dict(fn.state_dict())
    for one in (fn, other):
        one.observe(step(8, seed=7))
        one.update()
    t = step(16, seed=8)
    assert torch.equal(fn.relabel(t), other.relabel(t))


def test_a_reward_is_clipped_where_asked():
    fn = constant(made(form="airl", absorbing=False, clip=0.5), 3.0)
    assert torch.equal(fn(step(2)), torch.full((2,), 0.5))


@pytest.mark.slow
def test_compiled_it_learns_the_same():
    t = step(16, seed=8)
    plain, compiled = (trained(3, compile=c)[0].relabel(t) for c in (False, True))
    torch.testing.assert_close(plain, compiled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"state_only": True}, {"absorbing": False}])
def test_it_keeps_the_contract_of_reward_functions(options):
    demos = demonstrations(obs=4)
    demos.action = torch.arange(80) % 2
    report = check_reward(lambda: AdversarialReward(demos, hidden=(8,), memory=50, **options))
    assert report.relabels and report.skipped == ()
    assert report.truncation_matters == options.get("absorbing", True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "maximin"}, "form='maximin'"),
        ({"penalty": "r1"}, "penalty='r1'"),
        ({"k": -1.0}, "k=-1.0"),
        ({"label_smoothing": (1.0, 0.5)}, "label_smoothing"),
        ({"positive_share": 0.0}, "positive_share=0.0"),
        ({"memory": 4}, "memory=4: expected at least 8"),
        ({"demos": demonstrations(obs=4)}, "demos: observations are (4,)"),
        ({"demos": demonstrations(action=1)}, "demos: actions are (1,)"),
        ({"demos": demonstrations(rows=3)}, "demos: 3 steps, expected at least 64, a batch"),
        ({"demos": demonstrations(mean=math.nan)}, "demos: the observation of step 0 is"),
        ({"demos": far_out(demonstrations())}, "demos: the action of step 7 is"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        made(**options)


def test_a_file_that_says_only_done_needs_the_time_limit(tmp_path):
    file = tmp_path / "expert.npz"
    demos = demonstrations()
    obs = torch.cat([demos.obs, demos.obs[:1]])
    np.savez(
        file, obs=obs, acts=demos.action, indices=np.array([], np.int64), terminal=np.array([True])
    )
    with pytest.raises(ValueError, match="give time_limit="):
        made(demos=str(file))
    ended = [made(demos=str(file), time_limit=limit)._expert[-1, -1] for limit in (80, 81)]
    assert ended == [0.0, 1.0]


def test_an_undiscounted_absorbing_state_has_no_value():
    with pytest.raises(ValueError, match="gamma=1"):
        made(gamma=1.0)(step(2))


# ---- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [5, 7, 64])
def test_the_memory_is_a_deque_of_live_rows(capacity):
    memory, wanted = RowMemory(capacity, 1), deque(maxlen=capacity)
    rng = np.random.default_rng(0)
    for i in range(30):
        rows = torch.arange(5.0).unsqueeze(1) + 5.0 * i + 1.0
        valid = torch.from_numpy(rng.random(5) < 0.6)
        memory.add(rows, valid)
        wanted.extend(rows[valid, 0].tolist())
        assert sorted(memory.rows[: int(memory.size), 0].tolist()) == sorted(wanted)
    everywhere = memory.at(torch.linspace(0.0, 1.0 - 2.0**-24, 1000))
    assert set(everywhere[:, 0].tolist()) == set(wanted)


def test_moments_are_those_of_all_live_rows():
    moments, rng = Moments(3), torch.Generator().manual_seed(0)
    kept = []
    for _ in range(10):
        rows, valid = 5.0 + torch.randn(6, 3, generator=rng), torch.rand(6, generator=rng) < 0.7
        moments.add(rows, valid)
        kept.append(rows[valid])
    every = torch.cat(kept)
    mean, scale = moments.standard()
    torch.testing.assert_close(mean, every.mean(0))
    torch.testing.assert_close(1.0 / scale, every.std(0, unbiased=False))


def test_a_box_is_laid_flat_and_a_choice_is_one_of_n():
    box = Encoding(spaces.Box(-2.0, 6.0, (1, 2), np.float32), "x", bounded=True)
    assert box(torch.tensor([[[-2.0, 4.0]]])).tolist() == [[-1.0, 0.5]]
    choice = Encoding(spaces.Discrete(3, start=5), "x")
    assert choice(torch.tensor([6, 5])).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="x: MultiBinary"):
        Encoding(spaces.MultiBinary(2), "x")
