"""Identities of preference learning, exact on 40 sequences, on bandits and on a cycle of three."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import lambertw

from rewardzoo.metrics.starc import starc_distance
from rewardzoo.rlhf import losses, reward_losses
from rewardzoo.rlhf.evaluation import bon_curve, kl_bon
from rewardzoo.rlhf.losses import Scores, chi2_penalty
from rewardzoo.rlhf.policy_gradient import clip_steps, delta_steps, p3o, rloo

from .enumerable import logps, table


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(loss, lp):
    """Largest gradient of a loss of log-probabilities, with respect to their logits."""
    logits = lp.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(logits.log_softmax(0)), logits)
    return float(g.abs().max())


def pair_scores(lp, ref, i, j, strength=None):
    zero = torch.zeros_like(lp[i])
    one = torch.ones_like(zero)
    return Scores(lp[i], lp[j], ref[i], ref[j], one, one, zero if strength is None else strength)


def all_pairs(n):
    return torch.cartesian_prod(torch.arange(n), torch.arange(n)).T


def test_population_ipo_tilts_the_reference_by_the_rate_of_winning():
    """The loss is convex in the logits of sequences: where it is level, it is least."""
    ref, tau = logps(table(0)), 0.5
    p = torch.rand(40, 40, generator=generator(1), dtype=torch.float64).triu(1)
    p = p + (1 - p.T).tril(-1) + 0.5 * torch.eye(40, dtype=torch.float64)
    i, j = all_pairs(40)
    weight = ref.exp()[i] * ref.exp()[j] * p[i, j]  # both drawn from ref, i the one preferred

    def loss(lp):
        return (weight * losses.ipo(pair_scores(lp, ref, i, j), tau)).sum()

    rate = p @ ref.exp()
    assert slope(loss, ref + rate / tau) < 1e-12 < 1e-4 < slope(loss, ref + 2 * rate / tau)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_population_chi_po_finds_the_optimum_under_chi2_and_kl_which_bounds_the_policy(weight):
    """``beta phi(pi / ref) = r - nu``, solved by bisection and by Lambert's function."""
    ref, beta = logps(table(0)), 0.2
    r = 2.0 * torch.randn(40, generator=generator(1), dtype=torch.float64)
    i, j = all_pairs(40)
    wins = ref.exp()[i] * ref.exp()[j] * (r[i] - r[j]).sigmoid()

    def ratio(nu):
        u = ((r - nu) / beta).numpy()
        return torch.from_numpy(lambertw(weight * np.exp(u)).real / weight)

    low, high = float(r.min()) - 50.0, float(r.max()) + 50.0
    for _ in range(200):
        nu = (low + high) / 2
        low, high = (nu, high) if ref.exp() @ ratio(nu) > 1 else (low, nu)
    best = ref + ratio(nu).log()

    def loss(lp):
        return (wins * losses.chi_po(pair_scores(lp, ref, i, j), beta, weight)).sum()

    def value(lp):
        chi2 = (2 * lp - ref).exp().sum() - 1
        return lp.exp() @ (r - beta * (lp - ref)) - beta * weight * chi2 / 2

    assert slope(loss, best) < 1e-10 < 1e-4 < slope(loss, ref + r / beta)
    assert slope(value, best) < 1e-10 < 1e-4 < slope(value, ref)
    bound = 1 + float(r.max() - r.min()) / (beta * weight)
    tilted = (ref + r / beta).log_softmax(0)  # DPO's
    most, most_of_dpo = (float((lp - ref).exp().max()) for lp in (best, tilted))
    assert most <= bound and most < 0.5 * most_of_dpo


def test_infinite_data_make_dno_a_step_of_soft_policy_iteration():
    now, beta = logps(table(2)), 0.7
    wins = torch.rand(40, generator=generator(3), dtype=torch.float64)
    i, j = all_pairs(40)

    def loss(lp):
        return losses.dno(pair_scores(lp, now, i, j, wins[i] - wins[j]), beta).mean()

    assert slope(loss, now + wins / beta) < 1e-12 < 1e-4 < slope(loss, now)


@pytest.mark.parametrize(("a", "b", "c"), [(0.8, 0.8, 0.8), (0.9, 0.7, 0.6)])
def test_averaged_iterates_of_dno_approach_the_nash_equilibrium_of_a_cycle(a, b, c):
    """Rock beats scissors with probability a, scissors paper with b, paper rock with c."""
    p = torch.tensor([[0.5, a, 1 - c], [1 - a, 0.5, b], [c, 1 - b, 0.5]], dtype=torch.float64)
    nash = torch.tensor([b - 0.5, c - 0.5, a - 0.5], dtype=torch.float64)
    nash = nash / nash.sum()  # of an antisymmetric game of three
    torch.testing.assert_close(p @ nash, torch.full((3,), 0.5, dtype=torch.float64))
    i, j = all_pairs(3)
    now, iterates = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64).log_softmax(0), []
    beta = 2.0
    for t in range(2_000):
        wins = p @ now.exp()
        following = (now + wins / beta).log_softmax(0)
        assert following.exp() @ wins >= 0.5 - 1e-12  # it loses to no iterate before it
        if t % 200 == 0:

            def loss(lp, now=now, wins=wins):
                return losses.dno(pair_scores(lp, now, i, j, wins[i] - wins[j]), beta).mean()

            assert slope(loss, following) < 1e-12  # what training on infinite data finds
        now = following
        iterates.append(now.exp())
    mean = torch.stack(iterates).mean(0)
    first, last = (float((p @ x).max() - 0.5) for x in (iterates[0], mean))
    assert (mean - nash).abs().sum() / 2 < 0.03
    assert last < 0.03 and last < 0.5 * first


def test_bradley_terry_sees_no_preference_in_an_unbiased_cycle():
    wins = torch.tensor([[0.0, 8, 2], [2, 0, 8], [8, 2, 0]], dtype=torch.float64)
    assert reward_losses.bradley_terry_mm(wins).abs().max() < 1e-9


def test_the_optimum_of_a_reward_without_mean_is_minus_beta_times_the_calibrated_log_ratio():
    """VPO's bonus and penalty are the value of a reward's own best policy."""
    ref, beta = logps(table(1)), 0.7
    calibration = logps(table(4)).exp()
    r = torch.randn(40, generator=generator(5), dtype=torch.float64)
    r = r - calibration @ r
    log_z = torch.logsumexp(ref + r / beta, 0)
    log_ratio = r / beta - log_z
    value = -beta * (calibration @ log_ratio)
    torch.testing.assert_close(value, beta * log_z, atol=1e-12, rtol=0)


def test_the_chi2_penalty_as_a_loss_pulls_by_half_of_chi2_and_the_forward_kl():
    logits, ref = table(0).requires_grad_(), logps(table(1))
    lp = logps(logits)
    (found,) = torch.autograd.grad(
        (lp.detach().exp() * chi2_penalty(lp - ref)).sum(), logits, retain_graph=True
    )
    chi2 = (lp.exp() ** 2 / ref.exp()).sum() - 1
    forward = (ref.exp() * (ref - lp)).sum()
    (expected,) = torch.autograd.grad(chi2 / 2 + forward, logits)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_the_best_policy_under_the_chi2_penalty_is_the_reference_times_a_line_in_the_reward():
    """The penalty's mean over pi is chi^2(pi || ref), for its other part has mean 0."""
    ref, lam = logps(table(1)), 2.0
    r = torch.randn(40, generator=generator(7), dtype=torch.float64)
    centred = r - ref.exp() @ r  # nu is the mean, where no response is left out
    assert (1 + centred / (2 * lam) > 0.1).all()
    best = ref + torch.log1p(centred / (2 * lam))

    def loss(lp):
        return -(lp.exp() * (r - lam * chi2_penalty(lp - ref))).sum()

    torch.testing.assert_close(best.exp().sum(), torch.ones((), dtype=torch.float64))
    assert slope(loss, best) < 1e-12 < 1e-3 < slope(loss, ref + r / (2 * lam))


def test_under_a_small_chi2_penalty_the_worst_responses_are_left_out():
    """``pi = ref max(0, 1 + (r - nu) / (2 lam))``, nu by bisection: Kuhn and Tucker's conditions."""
    ref, lam = logps(table(1)).exp(), 0.15
    r = torch.randn(40, generator=generator(7), dtype=torch.float64)

    def policy(nu):
        return ref * (1 + (r - nu) / (2 * lam)).clamp(min=0)

    low, high = float(r.min()) - 1.0, float(r.max()) + 1.0
    for _ in range(100):
        nu = (low + high) / 2
        low, high = (nu, high) if policy(nu).sum() > 1 else (low, nu)
    pi = policy(nu)
    left_out = pi == 0
    assert 5 < left_out.sum() < 35 and pi.sum() == pytest.approx(1.0)
    slopes = r - 2 * lam * (pi / ref)  # of J, in the probability of a response
    best = slopes[~left_out].mean()
    assert (slopes[~left_out] - best).abs().max() < 1e-10 and (slopes[left_out] < best).all()

    def value(p):
        return p @ r - lam * ((p**2 / ref).sum(-1) - 1)

    other = pi * (0.3 * torch.randn(1_000, 40, generator=generator(8), dtype=torch.float64)).exp()
    mixed = 0.99 * other / other.sum(1, keepdim=True) + 0.01 * ref
    assert (value(mixed) < value(pi)).all()


def test_gold_gained_is_bounded_by_proxy_gained_and_chi2():
    g = generator(6)
    for _ in range(1_000):
        ref, pi = (torch.randn(6, generator=g, dtype=torch.float64).softmax(0) for _ in range(2))
        proxy, other = torch.randn(2, 6, generator=g, dtype=torch.float64)
        gold = proxy + torch.rand((), generator=g, dtype=torch.float64) * 2 * other

        def standard(x, ref=ref):
            x = x - ref @ x
            return x / (ref @ x**2).sqrt()

        proxy, gold = standard(proxy), standard(gold)
        r = ref @ (proxy * gold)
        if r <= 0:
            continue
        chi2 = (pi**2 / ref).sum() - 1
        assert pi @ gold >= (pi @ proxy - ((1 - r**2) * chi2).sqrt()) / r - 1e-9


@pytest.mark.parametrize("n", [2, 4])
def test_the_best_of_n_of_a_discrete_policy_is_nearer_than_the_bound(n):
    """And its gold is what the unbiased estimate of a large sample says."""
    policy, gold = logps(table(0)).exp(), torch.randn(40, generator=generator(1)).double()
    order = torch.randn(40, generator=generator(2)).argsort()  # by the proxy, ascending
    reached = torch.cat([torch.zeros(1, dtype=torch.float64), policy[order].cumsum(0)])
    best = torch.diff(reached**n)
    kl = float((best * (best / policy[order]).log()).sum())
    assert 0.3 * float(kl_bon(n)) < kl < float(kl_bon(n))
    drawn = torch.multinomial(policy, 200_000, replacement=True, generator=generator(3))
    found = float(bon_curve(gold[drawn].numpy(), order.argsort()[drawn].numpy(), [n])[0])
    assert found == pytest.approx(float(best @ gold[order]), abs=5 * n * float(gold.std()) / 447)


def test_scores_of_responses_are_compared_by_starc_which_sees_no_offset_of_a_prompt_and_no_scale():
    """Prompts are states and responses actions, after which the episode is over."""
    gold, other = torch.randn(2, 5, 8, generator=generator(), dtype=torch.float64)
    offset = 10 * torch.randn(5, 1, generator=generator(1), dtype=torch.float64)

    def distance(a, b):
        moves = torch.zeros(6, 8, 6, dtype=torch.float64)
        moves[..., 5] = 1  # the end, which pays nothing
        first, second = (torch.cat([x, torch.zeros(1, 8).double()]).numpy() for x in (a, b))
        return float(starc_distance(first, second, moves.numpy(), gamma=0.9))

    assert distance(gold, 3 * gold + offset) == pytest.approx(0, abs=1e-9)
    assert distance(gold, -gold) == pytest.approx(2)
    assert 0.5 < distance(gold, other) < 2


def test_simpo_at_equal_averages_is_its_margin_alone():
    g = generator()
    average = -torch.rand(8, generator=g, dtype=torch.float64)
    n = torch.randint(1, 9, (2, 8), generator=g).double()
    zero = torch.zeros(8, dtype=torch.float64)
    s = Scores(average * n[0], average * n[1], zero, zero, n[0], n[1], zero)
    expected = -torch.nn.functional.logsigmoid(torch.full_like(zero, -1.5))
    torch.testing.assert_close(losses.simpo(s, 2.0, 1.5), expected)


@pytest.mark.parametrize("joint", [False, True])
def test_both_forms_of_p3o_have_the_gradient_of_rloo_at_the_first_step(joint):
    reward = torch.randn(16, generator=generator(), dtype=torch.float64)
    log_ratio = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(p3o(log_ratio, reward, joint=joint).sum(), log_ratio)
    # RLOO's advantages of the two are +-(r1 - r2), and it takes a mean over both.
    torch.testing.assert_close(found, -rloo(reward, 2) / 2)


def test_the_joint_form_of_p3o_is_clipped_by_the_quotient_alone():
    both = torch.tensor([2.0, 2.0], requires_grad=True)
    reward = torch.tensor([1.0, 0.0])
    (g,) = torch.autograd.grad(p3o(both, reward, joint=True).sum(), both)
    assert g[0] == -g[1] == -0.5  # both ratios are far from 1, their quotient is not
    apart = torch.tensor([0.5, 0.0], requires_grad=True)
    (g,) = torch.autograd.grad(p3o(apart, reward, joint=True).sum(), apart)
    assert not g.any()


# --------------------------------------------------------------------------- rewards of steps


def steps(n=64, s=6):
    g = generator()
    length = torch.randint(1, s + 1, (n, 1), generator=g)
    return torch.rand(n, s, generator=g, dtype=torch.float64), torch.arange(s) < length


def test_rewards_to_go_of_delta_are_the_scores_and_their_sum_is_the_first():
    score, mask = steps()
    delta = delta_steps(score, mask)
    to_go = delta.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(to_go[mask], score[mask])
    torch.testing.assert_close(delta.sum(1), score[:, 0])
    assert not delta[~mask].any()


def test_with_clip_no_step_pays_and_with_both_the_sum_is_no_more_than_0():
    score, mask = steps()
    clip = clip_steps(score, mask, 0.5)
    assert (clip <= 0).all() and not clip[~mask].any()
    assert not clip[mask & (score >= 0.5)].any()
    both = delta_steps(clip, mask)
    torch.testing.assert_close(both.sum(1), clip[:, 0])
    assert (both.sum(1) <= 0).all()


def test_repeating_a_good_step_is_paid_by_the_plain_sum_only():
    mask = torch.ones(1, 8, dtype=torch.bool)
    score = torch.full((1, 8), 0.9, dtype=torch.float64)
    short = mask.clone()
    short[:, 2:] = False
    assert (score * mask).sum() > 3 * (score * short).sum()
    for shaped in (delta_steps, clip_steps):
        torch.testing.assert_close(shaped(score, mask).sum(), shaped(score, short).sum())


# ---------------------------------------------------------------------- losses of reward models


def test_what_a_prompt_adds_to_scores_moves_only_the_losses_that_see_one_response():
    g = generator()
    score, rating = torch.randn(2, 16, 1, generator=g, dtype=torch.float64)
    rating = (rating > 0).double()
    for loss in (reward_losses.regression, reward_losses.cross_entropy):
        assert not torch.allclose(loss(score + 7, rating), loss(score, rating))


def test_strength_multiplies_the_gradient_where_scaled_and_shifts_it_where_a_margin():
    chosen = torch.randn(16, generator=generator(), dtype=torch.float64).requires_grad_()
    zero = torch.zeros(16, dtype=torch.float64)
    m = 1 + 2 * torch.rand(16, generator=generator(1), dtype=torch.float64)

    def gradient(loss, at, strength):
        (g,) = torch.autograd.grad(loss(at, zero, strength).sum(), chosen)
        return g

    plain = gradient(reward_losses.bt, chosen, m)
    torch.testing.assert_close(gradient(reward_losses.scaled_bt, chosen, m), m * plain)
    shifted = gradient(reward_losses.bt, chosen - m, m)
    torch.testing.assert_close(gradient(reward_losses.margin, chosen, m), shifted)


def test_a_soft_label_is_bt_at_1_its_exchange_at_0_and_smoothing_between():
    chosen, rejected = torch.randn(2, 16, generator=generator(), dtype=torch.float64)
    one, soft = torch.ones(16, dtype=torch.float64), reward_losses.soft_bt
    torch.testing.assert_close(soft(chosen, rejected, one), reward_losses.bt(chosen, rejected, one))
    torch.testing.assert_close(
        soft(chosen, rejected, 0 * one), reward_losses.bt(rejected, chosen, one)
    )
    smoothed = reward_losses.bt(chosen, rejected, one, label_smoothing=0.1)
    torch.testing.assert_close(soft(chosen, rejected, 0.9 * one), smoothed)
