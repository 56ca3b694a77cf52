"""Preference losses: closed forms, identities, and equality with TRL."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from rewardzoo.rlhf import losses, reward_losses
from rewardzoo.rlhf.losses import LOSSES, Scores, chi2_penalty

from .enumerable import SEQUENCES, logps, table


def scores(n=64, seed=0, grad=False):
    g = torch.Generator().manual_seed(seed)
    lp = [-10 * torch.rand(n, generator=g, dtype=torch.float64) for _ in range(4)]
    lengths = [torch.randint(1, 9, (n,), generator=g).double() for _ in range(2)]
    if grad:
        lp[0].requires_grad_()
        lp[1].requires_grad_()
    return Scores(*lp, *lengths, 3 * torch.rand(n, generator=g, dtype=torch.float64))


def at_reference():
    s = scores()
    return s._replace(ref_chosen=s.chosen, ref_rejected=s.rejected)


def test_losses_at_the_reference_have_their_closed_forms():
    s = at_reference()
    torch.testing.assert_close(losses.dpo(s), torch.full_like(s.chosen, math.log(2)))
    torch.testing.assert_close(losses.ipo(s, tau=0.2), torch.full_like(s.chosen, 1 / 0.16))
    torch.testing.assert_close(losses.slic(s), torch.ones_like(s.chosen))


def test_gradient_of_dpo_at_the_reference_is_minus_half_beta():
    s = at_reference()
    chosen = s.chosen.clone().requires_grad_()
    losses.dpo(s._replace(chosen=chosen), beta=0.3).sum().backward()
    torch.testing.assert_close(chosen.grad, torch.full_like(chosen, -0.15))


def test_exchanging_the_two_changes_dpo_by_beta_delta():
    s = scores()
    swapped = s._replace(
        chosen=s.rejected,
        rejected=s.chosen,
        ref_chosen=s.ref_rejected,
        ref_rejected=s.ref_chosen,
    )
    torch.testing.assert_close(losses.dpo(swapped) - losses.dpo(s), 0.1 * s.delta)


def gradients(loss, **kwargs):
    s = scores(grad=True)
    loss(s, **kwargs).sum().backward()
    return torch.stack([s.chosen.grad, s.rejected.grad])


def test_offline_vpo_has_the_gradient_of_rpo():
    a = gradients(losses.vpo, beta=0.2, alpha=0.3)
    torch.testing.assert_close(a, gradients(losses.rpo, beta=0.2, eta=0.3))
    s = scores()  # what is between them is a constant, made of the reference alone
    apart = losses.vpo(s, beta=0.2, alpha=0.3) - losses.rpo(s, beta=0.2, eta=0.3)
    torch.testing.assert_close(apart, 0.3 * 0.2 * s.ref_chosen)


def test_online_vpo_is_calibrated_on_samples_of_the_reference_and_leaves_the_chosen_alone():
    """Its gradient with respect to the pairs is DPO's; samples are weighed alike and pushed down."""
    s, ratio = scores(grad=True), torch.randn(5, dtype=torch.float64, requires_grad=True)
    losses.vpo(s, beta=0.2, alpha=0.3, calibration=ratio).mean().backward()
    plain = gradients(losses.dpo, beta=0.2) / 64
    torch.testing.assert_close(torch.stack([s.chosen.grad, s.rejected.grad]), plain)
    torch.testing.assert_close(ratio.grad, torch.full_like(ratio, 0.3 * 0.2 / 5))


@pytest.mark.parametrize(
    ("loss", "kwargs"),
    [
        (losses.vpo, {"alpha": 0.0}),
        (losses.vpo, {"alpha": 0.0, "calibration": torch.ones(3)}),
        (losses.rpo, {"eta": 0.0}),
        (losses.mmdpo, {"w": 0.0}),
        (losses.mmdpo, {"k": 0.0}),
    ],
)
def test_without_their_own_term_they_are_dpo(loss, kwargs):
    assert torch.equal(loss(scores(), **kwargs), losses.dpo(scores()))


def test_mmdpo_approaches_a_larger_beta_and_passes_no_gradient_to_the_margin():
    s = scores()._replace(strength=torch.full((64,), 1e6, dtype=torch.float64))
    torch.testing.assert_close(losses.mmdpo(s, w=0.5), losses.dpo(s, beta=0.15))
    strength = s.strength.requires_grad_()
    assert not losses.mmdpo(s._replace(strength=strength)).requires_grad


def test_dno_is_symmetric_and_at_even_odds_pulls_towards_the_reference():
    s = scores()._replace(strength=torch.zeros(64, dtype=torch.float64))
    half = 0.5 * (losses.dpo(s) + losses.dpo(s) + 0.1 * s.delta)
    torch.testing.assert_close(losses.dno(s), half)
    assert (losses.dno(s) >= math.log(2) - 1e-12).all()


def test_simpo_ignores_the_reference_and_repeated_tokens():
    s = scores()
    other = s._replace(ref_chosen=s.ref_chosen - 5, ref_rejected=s.ref_rejected + 2)
    twice = s._replace(
        chosen=2 * s.chosen,
        rejected=2 * s.rejected,
        n_chosen=2 * s.n_chosen,
        n_rejected=2 * s.n_rejected,
    )
    for each in (other, twice):
        torch.testing.assert_close(losses.simpo(each), losses.simpo(s))
    same = s._replace(n_chosen=torch.full((64,), 4.0), n_rejected=torch.full((64,), 4.0))
    torch.testing.assert_close(losses.simpo(same, 2.0, 0.0), losses.cpo(same, 0.5))


ON_SUMS = ("dpo", "chi_po", "ipo", "slic", "cpo", "rpo", "vpo", "mmdpo", "dno")
WITHOUT_REFERENCE = ("simpo", "cpo", "sft")


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_a_sum_over_tokens_and_what_asks_the_reference(name):
    """Lengths and the reference are seen by no loss but those that are made of them."""
    loss, s = LOSSES[name], scores()
    longer = s._replace(n_chosen=s.n_chosen + 3, n_rejected=2 * s.n_rejected)
    assert torch.equal(loss(longer), loss(s)) == (name in ON_SUMS)
    other = s._replace(ref_chosen=s.ref_chosen - 1, ref_rejected=s.ref_rejected + 2)
    assert torch.equal(loss(other), loss(s)) == (name in WITHOUT_REFERENCE)


def test_ipo_has_a_finite_optimum_on_one_pair_and_dpo_has_none():
    p, tau = 0.8, 0.25
    delta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)

    def of(d):
        return Scores(d, zero, zero, zero, zero, zero, zero)

    loss = p * losses.ipo(of(delta), tau) + (1 - p) * losses.ipo(of(-delta), tau)
    (g,) = torch.autograd.grad(loss, delta)
    optimum = -g / 4 * 2  # a parabola with second derivative 2
    torch.testing.assert_close(optimum, torch.tensor((p - 0.5) / tau, dtype=torch.float64))
    at = [float(losses.dpo(of(torch.tensor(d, dtype=torch.float64)))) for d in (10.0, 100.0)]
    assert at[1] < at[0]


def test_bad_betas_are_refused_by_name():
    for name in set(LOSSES) - {"ipo", "sft"}:
        for beta in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"beta={beta}: expected a finite number > 0"):
                LOSSES[name](scores(), beta=beta)
    with pytest.raises(ValueError, match="tau=0"):
        losses.ipo(scores(), tau=0.0)


def test_population_dpo_recovers_the_optimal_policy():
    ref, beta = logps(table(0)), 0.5
    reward = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = table(0).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-14,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )
    i, j = torch.triu_indices(40, 40, 1)
    p = torch.sigmoid(reward[i] - reward[j])

    def closure():
        optimizer.zero_grad()
        lp = logps(logits)
        zero = torch.zeros_like(lp[i])
        forward = Scores(lp[i], lp[j], ref[i], ref[j], zero, zero, zero)
        back = Scores(lp[j], lp[i], ref[j], ref[i], zero, zero, zero)
        loss = (p * losses.dpo(forward, beta) + (1 - p) * losses.dpo(back, beta)).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    optimal = torch.softmax(ref + reward / beta, 0)
    assert len(SEQUENCES) == 40
    assert 0.5 * (logps(logits).exp() - optimal).abs().sum() < 1e-7


def test_chi_po_is_dpo_without_its_term_and_linear_far_out():
    s = scores(64)
    assert torch.equal(losses.chi_po(s, 0.3, chi2=0.0), losses.dpo(s, 0.3))
    z = s.chosen_ratio.exp() - s.rejected_ratio.exp()
    torch.testing.assert_close(
        losses.chi_po(s, 0.3, chi2=0.5), -torch.nn.functional.logsigmoid(0.3 * (s.delta + 0.5 * z))
    )
    one, zero = torch.ones(3), torch.zeros(3)
    far = Scores(torch.tensor([50.0, 60.0, 70.0]), 100 * one, zero, zero, one, one, zero)
    a = losses.chi_po(far)
    assert a.isfinite().all()
    torch.testing.assert_close(a[0] - a[1], a[1] - a[2])


def test_chi2_penalty_has_the_mean_of_chi2_and_grows_linearly_far_out():
    p, q = logps(table(0)), logps(table(1))
    chi2 = (p.exp() ** 2 / q.exp()).sum() - 1
    torch.testing.assert_close((p.exp() * chi2_penalty(p - q)).sum(), chi2)
    far = torch.tensor([-30.0, -20.0, 20.0, 30.0, 40.0])
    a = chi2_penalty(far)
    torch.testing.assert_close(a[4] - a[3], a[3] - a[2])
    torch.testing.assert_close(a[0], a[3])


# ------------------------------------------------------------------------- reward models' losses


def test_identities_of_reward_losses():
    g = torch.Generator().manual_seed(0)
    w, x = torch.randn(2, 64, generator=g, dtype=torch.float64)
    m = 3 * torch.rand(64, generator=g, dtype=torch.float64)
    for loss in (reward_losses.bt, reward_losses.margin, reward_losses.scaled_bt):
        torch.testing.assert_close(loss(w + 7, x + 7, m), loss(w, x, m))
    smoothed = reward_losses.bt(w, x, m, label_smoothing=0.1)
    torch.testing.assert_close(reward_losses.bt(w + 7, x + 7, m, label_smoothing=0.1), smoothed)
    assert not torch.allclose(reward_losses.centring(w + 7, x + 7), reward_losses.centring(w, x))
    one = torch.ones(64, dtype=torch.float64)
    torch.testing.assert_close(reward_losses.scaled_bt(w, x, one), reward_losses.bt(w, x, one))
    torch.testing.assert_close(reward_losses.margin(w, x, m), reward_losses.bt(w - m, x, m))
    d = w.clone().requires_grad_()
    (grad,) = torch.autograd.grad(reward_losses.bt(d, x, m).sum(), d)
    torch.testing.assert_close(grad, -torch.sigmoid(x - w))


def test_smoothing_is_least_at_the_log_odds():
    d = torch.linspace(0, 5, 50_001, dtype=torch.float64)
    least = d[reward_losses.bt(d, torch.zeros_like(d), d, label_smoothing=0.1).argmin()]
    assert abs(least - math.log(9)) < 1e-4


def test_bt_on_counts_is_the_bradley_terry_maximum_likelihood():
    g = torch.Generator().manual_seed(0)
    wins = torch.randint(1, 9, (6, 6), generator=g).double()
    wins.fill_diagonal_(0)
    score = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([score], max_iter=500, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = (wins * -F.logsigmoid(score[:, None] - score[None, :])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    fitted = score.detach() - score.detach().mean()
    torch.testing.assert_close(fitted, reward_losses.bradley_terry_mm(wins), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------- TRL


def test_simpo_and_cpo_equal_trl():
    pytest.importorskip("trl")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    s = scores()
    for kind, gamma, smoothing in (("simpo", 1.5, 0), ("sigmoid", 0, 0), ("sigmoid", 0, 0.1)):
        fake = SimpleNamespace(
            alpha=0.0,
            loss_type=kind,
            beta=2.0,
            simpo_gamma=gamma,
            label_smoothing=smoothing,
            accelerator=SimpleNamespace(device="cpu"),
        )
        if kind == "simpo":
            given = (s.chosen / s.n_chosen, s.rejected / s.n_rejected)
            ours = losses.simpo(s, 2.0, 2.0 * gamma / 2.0)
        else:
            given = (s.chosen, s.rejected)
            # Without a reference a smoothed DPO, which TRL has not, is a smoothed CPO.
            free = s._replace(ref_chosen=0 * s.chosen, ref_rejected=0 * s.rejected)
            ours = losses.dpo(free, 2.0, smoothing) if smoothing else losses.cpo(s, 2.0)
        theirs = CPOTrainer.cpo_loss(fake, *given)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
