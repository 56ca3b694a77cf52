"""Advantages and online losses: identities, exact expectations on an enumerable model."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.policy_gradient import (
    at_the_end,
    clipped,
    gae,
    grpo,
    grpo_loss,
    kept_by_accuracy,
    kept_by_filter,
    kl_estimates,
    p3o,
    rloo,
    rloo_loss,
    token_mean,
    value_loss,
    whiten,
)

from .enumerable import logps, step_kls, table


def exactly(found, expected):
    """Equal to 1e-10, as expectations in float64 over all sequences are."""
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def rewards(n=32, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rloo_sums_to_zero_is_the_leave_one_out_mean_and_ignores_what_prompts_share():
    r = rewards()
    a = rloo(r, 4)
    torch.testing.assert_close(a.view(-1, 4).sum(1), torch.zeros(8, dtype=torch.float64))
    assert a[1] == pytest.approx(float(r[1] - (r[0] + r[2] + r[3]) / 3))
    shared = 10 * rewards(8, 1).repeat_interleave(4)
    torch.testing.assert_close(rloo(r + shared, 4), a)
    torch.testing.assert_close(grpo(r + shared, 4), grpo(r, 4))
    # Exactly but for the epsilon beside the deviation, which is a third of itself in this scale.
    torch.testing.assert_close(grpo(3 * r + 1, 4), grpo(r, 4, eps=1e-4 / 3))
    spread = r.view(8, 4).std(1).min()
    torch.testing.assert_close(grpo(3 * r + 1, 4), grpo(r, 4), atol=0, rtol=float(1e-4 / spread))


def test_a_group_of_equal_rewards_teaches_nothing():
    same = torch.ones(8)
    assert not rloo(same, 4).any() and not grpo(same, 4).any()
    with pytest.raises(ValueError, match="k=1"):
        rloo(same, 1)


def test_a_group_of_equal_rewards_has_no_gradient_in_any_loss():
    logp = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    old, mask = logp.detach() + 0.01, torch.ones(8, 5, dtype=torch.bool)
    same = torch.full((8,), 3.0)
    each = grpo(same, 4).unsqueeze(1) * mask
    for loss in (
        rloo_loss(logp, old, rloo(same, 4), mask),
        grpo_loss(logp, old, each, mask),
        token_mean(clipped(logp, old, whiten(each, mask), mask), mask),
        p3o((logp - old).sum(1), same).mean(),
        p3o((logp - old).sum(1), same, joint=True).mean(),
    ):
        (g,) = torch.autograd.grad(loss, logp)
        assert torch.equal(g, torch.zeros_like(g))


def test_gae_of_a_hand_computed_case():
    reward = torch.tensor([[1.0, 0.0, 2.0, 9.0]])
    value = torch.tensor([[0.5, 1.0, 0.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    delta = [1.0 + 1.0 - 0.5, 0.0 + 0.0 - 1.0, 2.0]
    expected = [delta[0] + 0.5 * (delta[1] + 0.5 * delta[2]), delta[1] + 0.5 * delta[2], 2.0, 0.0]
    assert gae(reward, value, mask, 0.5).tolist() == [pytest.approx(expected)]
    total = gae(reward, torch.zeros_like(value), mask, 1.0)
    assert total.tolist() == [[3.0, 2.0, 2.0, 0.0]]


def test_whitened_advantages_have_mean_0_and_std_1_over_the_mask():
    mask = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    x = whiten(rewards(40).view(8, 5), mask)
    assert abs(x[mask].mean()) < 1e-9 and x[mask].std(unbiased=False) == pytest.approx(1, abs=1e-6)
    assert not x[~mask].any()


def test_the_first_step_of_the_clipped_loss_is_reinforce():
    g = torch.Generator().manual_seed(0)
    logp = torch.randn(8, 5, generator=g, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(8, 5, generator=g) < 0.7
    advantage = rewards(8).unsqueeze(1) * mask
    clipped(logp, logp.detach(), advantage, mask).sum().backward()
    torch.testing.assert_close(logp.grad, -advantage)


def test_the_first_step_of_every_loss_is_reinforce_up_to_how_tokens_are_weighed():
    g = torch.Generator().manual_seed(0)
    logp = torch.randn(8, 5, generator=g, dtype=torch.float64, requires_grad=True)
    length = torch.randint(1, 6, (8, 1), generator=g)
    mask = torch.arange(5) < length
    a = rewards(8)
    each = a.unsqueeze(1) * mask
    old = logp.detach()
    for loss, weight in (
        (rloo_loss(logp, old, a, mask), torch.full((8, 1), 1 / 8)),
        (grpo_loss(logp, old, each, mask), 1 / (8 * length)),
        (token_mean(clipped(logp, old, each, mask), mask), 1 / length.sum()),
    ):
        (found,) = torch.autograd.grad(loss, logp)
        torch.testing.assert_close(found, -each * weight)


def test_whole_completions_are_clipped_by_the_ratio_of_all_their_tokens():
    logp = torch.tensor([[0.15, 0.15], [0.15, 0.15], [0.5, -0.5]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    loss = rloo_loss(logp, torch.zeros(3, 2), torch.ones(3), mask)
    (g,) = torch.autograd.grad(loss, logp)
    # Only the first goes beyond 1.2 in all; behind the end of the second nothing counts.
    assert (g != 0).tolist() == [[False, False], [True, False], [True, True]]


def test_clipping_stops_the_gradient_only_where_the_ratio_went_too_far_in_the_right_direction():
    old = torch.zeros(1, 4)
    logp = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    clipped(logp, old, advantage, torch.ones(1, 4, dtype=torch.bool)).sum().backward()
    assert (logp.grad != 0).tolist() == [[False, True, True, False]]


def test_a_value_that_moved_further_than_its_clip_is_not_pushed_on():
    old, mask = torch.zeros(1, 5), torch.tensor([[True, True, True, True, False]])
    value = torch.tensor([[0.1, 0.5, 0.5, -0.5, 9.0]], requires_grad=True)
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    loss = value_loss(value, old, target, mask, clip=0.2)
    # The second has gone far towards its target: the error of .2 counts, and has no gradient.
    assert float(loss.detach()) == pytest.approx((0.9**2 + 0.8**2 + 0.5**2 + 0.5**2) / 4)
    loss.backward()
    expected = torch.tensor([[-0.9, 0.0, 0.5, -0.5, 0.0]]) * 2 / 4
    torch.testing.assert_close(value.grad, expected)


def test_the_first_pass_of_a_clipped_value_is_least_squares():
    value = rewards(8).view(2, 4).requires_grad_()
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    target = rewards(8, 1).view(2, 4)
    value_loss(value, value.detach(), target, mask).backward()
    torch.testing.assert_close(value.grad, 2 * (value.detach() - target) * mask / 5)


def test_a_completions_reward_stands_at_its_last_token():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert at_the_end(torch.tensor([2.0, 3.0]), mask).tolist() == [[0, 0, 2], [3, 0, 0]]


def exact_gradient(value):
    """Gradient (13, 4) of E_pi[value], all sequences enumerated."""
    logits = table(0).requires_grad_()
    (g,) = torch.autograd.grad((logps(logits).exp() * value).sum(), logits)
    return g


def test_p3o_is_in_expectation_over_pairs_the_policy_gradient_and_ignores_shared_reward():
    r = rewards(40, 3)
    logits = table(0).requires_grad_()
    lp = logps(logits)
    p = lp.detach().exp()
    i, j = torch.cartesian_prod(torch.arange(40), torch.arange(40)).T
    ratio = torch.stack([(lp - lp.detach())[i], (lp - lp.detach())[j]], 1).reshape(-1)
    reward = torch.stack([r[i], r[j]], 1).reshape(-1)
    loss = (p[i] * p[j] * p3o(ratio, reward)).sum()
    (g,) = torch.autograd.grad(loss, logits)
    exactly(-g, exact_gradient(r))
    shared = 10 * torch.randn(1600, generator=torch.Generator().manual_seed(0)).double()
    far = torch.randn(3200, generator=torch.Generator().manual_seed(1)).double()
    for joint in (False, True):
        a = p3o(far, reward, joint=joint)
        exactly(p3o(far, reward + shared.repeat_interleave(2), joint=joint), a)


def kl_loss_gradient(name):
    """Expected gradient of an estimator used as a loss on samples of the policy."""
    logits = table(0).requires_grad_()
    lp, ref = logps(logits), logps(table(1))
    estimate = kl_estimates(lp - ref)[name]
    (g,) = torch.autograd.grad((lp.detach().exp() * estimate).sum(), logits)
    return g


def test_gradients_of_the_three_kl_losses():
    logits, ref = table(0).requires_grad_(), logps(table(1))
    lp = logps(logits)
    (reverse,) = torch.autograd.grad((lp.exp() * (lp - ref)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((ref.exp() * (ref - lp)).sum(), logits)
    exactly(kl_loss_gradient("k1"), torch.zeros_like(reverse))
    exactly(kl_loss_gradient("k2"), reverse)
    exactly(kl_loss_gradient("k3"), forward)


def test_values_of_k1_and_k3_and_the_sum_of_step_kls_are_the_kl():
    lp, ref = logps(table(0)), logps(table(1))
    kl = (lp.exp() * (lp - ref)).sum()
    estimates = kl_estimates(lp - ref)
    for value in (estimates["k1"], estimates["k3"], step_kls(table(0), table(1))):
        exactly((lp.exp() * value).sum(), kl)
    assert (estimates["k3"] >= 0).all()


def test_the_optimal_policy_is_the_tilted_reference_with_value_beta_log_z():
    ref, r, beta = logps(table(1)), rewards(40, 2), 0.7
    log_z = torch.logsumexp(ref + r / beta, 0)
    best = ref + r / beta - log_z
    assert (len(best), len(table(0))) == (40, 13)

    def objective(lp):
        return (lp.exp() * (r - beta * (lp - ref))).sum()

    exactly(best.exp().sum(), torch.ones((), dtype=torch.float64))
    exactly(objective(best), beta * log_z)
    free = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(free.log_softmax(0)), free)
    exactly(slope, torch.zeros_like(slope))
    for seed in range(5):
        assert objective(logps(table(seed))) < beta * log_z


def test_prompts_are_kept_by_the_share_of_right_completions_and_whole():
    right = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
    kept = kept_by_accuracy(right.float().reshape(-1), 5, 0.2, 0.8)
    assert kept.tolist() == list(range(5, 15))  # .2 and .8 themselves are inside
    assert kept_by_accuracy(right.float().reshape(-1), 5, 0.3, 0.7).tolist() == []
    assert kept_by_accuracy(right.float().reshape(-1), 5, 0.0, 0.5).tolist() == list(range(10))


@pytest.mark.parametrize("how", ["all", "best", "best_worst", "best_random"])
def test_filters_keep_what_they_say(how):
    r = rewards(32)
    kept = kept_by_filter(r, 8, how, torch.Generator().manual_seed(0))
    groups = r[kept].view(4, -1)
    if how == "all":
        assert torch.equal(kept, torch.arange(32))
        return
    assert torch.equal(groups[:, 0], r.view(4, 8).amax(1))
    if how == "best_worst":
        assert torch.equal(groups[:, 1], r.view(4, 8).amin(1))
    if how == "best_random":
        assert (groups[:, 1] < groups[:, 0]).all()
        generator = torch.Generator().manual_seed(1)
        others = {int(kept_by_filter(r[:8], 8, how, generator)[1]) for _ in range(200)}
        assert len(others) == 7  # each of the others, at random
