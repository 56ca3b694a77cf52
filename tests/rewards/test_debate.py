"""Judges learn what Bayes allows, debates pay what they should, and say why in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rewardzoo  # noqa: F401
from rewardzoo.agents.tabular import mdp_of, occupancy, policy_iteration
from rewardzoo.envs.sepsis.clinical import CLINICAL, describe_feature, raw_value, sofa_scale
from rewardzoo.envs.sepsis.data import FEATURES, tables
from rewardzoo.envs.sepsis.dynamics import PAPER_FEATURES, SepsisICU
from rewardzoo.rewards import RewardWrapper, VectorRewardWrapper, make_reward
from rewardzoo.rewards.debate import DebateReward
from rewardzoo.rewards.evidence import GreedyDebater, evidence_of, random_evidence
from rewardzoo.rewards.judge import (
    Judge,
    LinearJudge,
    Preferences,
    accuracy,
    bayes_accuracy,
    bradley_terry_loss,
    fit_judge,
    popularity,
)
from rewardzoo.testing import check_reward

ENV = "rewardzoo/SepsisICU-v0"
NAMES = tuple(f"x{i}" for i in range(6))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy(count: int, seed: int = 0, popular: float = 0.0) -> Preferences:
    """Feature i > 0 speaks for action i; with ``popular`` action 0 is preferred regardless."""
    g = generator(seed)
    x = torch.randn(count, 6, generator=g)
    preferred = x.argmax(1)
    preferred = torch.where(torch.rand(count, generator=g) < popular, 0, preferred)
    return Preferences.of_choices(x, preferred, torch.arange(count), g, num_actions=6)


# ---- judges ----------------------------------------------------------------------------------


def test_a_judge_learns_the_toy_set() -> None:
    judge = fit_judge(Judge(NAMES, 6, hidden=32), toy(4000), 6, steps=300, learning_rate=5e-3)
    mean, error = accuracy(judge, toy(4000, seed=1), 6)
    assert mean > 0.8 and error < 0.01 and not judge.training
    assert not any(p.requires_grad for p in judge.parameters())
    seen, _ = accuracy(judge, toy(4000, seed=1), 2)
    assert 0.5 < seen < mean


def test_batch_normalisation_of_each_action_alone_hides_the_difference() -> None:
    """The trap: the same network and data, preferred and rejected actions in a batch of their own.

    The loss stays at log 2 and the judge is right half the time.
    """
    data, judge = toy(4000), Judge(NAMES, 6, hidden=32)
    optimizer = torch.optim.Adam(judge.parameters(), lr=5e-3)
    g = generator(1)
    losses = []
    for _ in range(300):
        rows = torch.randint(len(data), (256,), generator=g)
        shown = torch.ones(256, 6, dtype=torch.bool)
        x = data.features[rows]
        loss = bradley_terry_loss(
            judge(x, shown, data.preferred[rows]), judge(x, shown, data.rejected[rows])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    alone = judge.eval().requires_grad_(False)
    trapped, _ = accuracy(alone, toy(4000, seed=1), 6)
    together = fit_judge(Judge(NAMES, 6, hidden=32), data, 6, steps=300, learning_rate=5e-3)
    right, _ = accuracy(together, toy(4000, seed=1), 6)
    assert right > 0.8
    assert abs(trapped - 0.5) < 0.06 and losses[-1] == pytest.approx(np.log(2), abs=0.01)


def test_an_unbalanced_judge_learns_popularity() -> None:
    """The trap: where one action is popular, a judge that reads nothing looks good, balanced not."""
    data, held_out = toy(6000, popular=0.9), toy(6000, seed=1, popular=0.9)
    blind = popularity(data, 6)
    plain, _ = accuracy(blind, held_out, 2, balanced=False)
    fair, _ = accuracy(blind, held_out, 2)
    assert plain > 0.85 and fair < 0.6
    kwargs: dict[str, Any] = {"steps": 300, "learning_rate": 5e-3}
    gains = []
    for start in range(4):  # the first weights alone move the gain by .01
        with torch.random.fork_rng():
            torch.manual_seed(start)
            judges = [Judge(NAMES, 6, 32) for _ in range(2)]
        greedy = fit_judge(judges[0], data, 2, balanced=False, **kwargs)
        balanced = fit_judge(judges[1], data, 2, balanced=True, **kwargs)
        gains.append(accuracy(balanced, held_out, 2)[0] - accuracy(greedy, held_out, 2)[0])
        assert accuracy(greedy, held_out, 2, balanced=False)[0] > plain - 0.03
    assert sum(gains) / len(gains) > 0.02


def test_on_patients_popularity_alone_scores_high_and_balancing_undoes_it() -> None:
    """The exact accuracy of the judge that reads nothing, .8736, by drawing 60,000 pairs."""
    func = SepsisICU()
    joint = torch.tensor(func.expert_visits[:, None] * func.expert_policy)
    cell = torch.multinomial(joint.reshape(-1).float(), 60_000, True, generator=generator())
    features = torch.tensor(func.evidence_table)
    pairs = Preferences.of_choices(
        features[cell // 25], cell % 25, torch.arange(60_000), generator()
    )
    blind = popularity(pairs)
    plain, error = accuracy(blind, pairs, 6, balanced=False)
    assert abs(plain - 0.873645) < 4 * error
    fair, error = accuracy(blind, pairs, 6)
    assert abs(fair - 0.5) < 4 * error
    policy, visits = torch.tensor(func.expert_policy), torch.tensor(func.expert_visits)
    linear = LinearJudge.of_policy(features, policy, visits)
    marginal = joint.sum(0) / joint.sum()
    beaten = (marginal.unsqueeze(1) > marginal).double().sum(1) / 24
    assert float(marginal @ beaten) == pytest.approx(0.873645, abs=1e-5)
    full, _ = accuracy(linear, pairs, 44)
    six, error = accuracy(linear, pairs, 6)
    assert bayes_accuracy(policy, visits) > full > six > 0.5 + 2 * error


def test_the_bayes_ceilings_are_the_papers_substitutes() -> None:
    func = SepsisICU()
    mdp = mdp_of(ENV)
    policy = torch.tensor(func.expert_policy)
    visits = occupancy(mdp, policy, 1.0).sum(1)
    np.testing.assert_allclose(visits, func.expert_visits, atol=1e-9)
    assert bayes_accuracy(policy, visits, balanced=False) == pytest.approx(0.929484, abs=1e-5)
    assert bayes_accuracy(policy, visits) == pytest.approx(0.821483, abs=1e-5)


def test_no_score_beats_the_bayes_ceiling() -> None:
    """A small case by brute force: 200 random scores and the Bayes score itself."""
    g = generator(3)
    policy = torch.rand(4, 5, generator=g, dtype=torch.float64).softmax(1)
    visits = torch.rand(4, generator=g, dtype=torch.float64)
    joint = visits.unsqueeze(1) * policy / visits.sum()

    def exact(score: Tensor, weight: Tensor) -> float:
        wins = (score.unsqueeze(2) > score.unsqueeze(1)).double()
        return float((weight * wins.sum(2)).sum() / 4)

    for balanced in (True, False):
        weight = joint / joint.sum(0) / 5 if balanced else joint
        ceiling = bayes_accuracy(policy, visits, balanced)
        best = policy / joint.sum(0) if balanced else policy
        assert exact(best, weight) == pytest.approx(ceiling)
        found = [
            exact(torch.rand(4, 5, generator=g, dtype=torch.float64), weight) for _ in range(200)
        ]
        assert max(found) < ceiling


def test_bradley_terry_is_the_ratio_of_choice_probabilities() -> None:
    """With scores log pi the model's preference is pi(a) / (pi(a) + pi(b)) exactly."""
    a, b = torch.tensor([0.3, 0.6]), torch.tensor([0.1, 0.2])
    loss = bradley_terry_loss(a.log(), b.log())
    assert float(loss) == pytest.approx(float(-(a / (a + b)).log().mean()))


@pytest.mark.parametrize("method", ["random", "offset", "exhaustive"])
def test_preference_sets(method: str) -> None:
    g = generator()
    action = torch.randint(25, (2000,), generator=g)
    pairs = Preferences.of_choices(torch.randn(2000, 3), action, torch.arange(2000), g, method)
    assert bool((pairs.preferred != pairs.rejected).all())
    assert bool(((pairs.rejected >= 0) & (pairs.rejected < 25)).all())
    if method == "exhaustive":
        assert len(pairs) == 2000 * 24
        one = pairs.rejected[pairs.group == 7]
        assert sorted([*one.tolist(), int(action[7])]) == list(range(25))
        return
    assert torch.equal(pairs.preferred, action)
    shift = (pairs.rejected - pairs.preferred) % 25
    if method == "random":
        seen = torch.bincount(shift, minlength=25)[1:] / 2000
        assert float((seen - 1 / 24).abs().max()) < 5 * np.sqrt(1 / 24 / 2000)
    else:
        fluids = (pairs.rejected // 5 - pairs.preferred // 5).abs()
        vasopressor = (pairs.rejected % 5 - pairs.preferred % 5).abs()
        assert bool((fluids + vasopressor == 1).all())
        corner = pairs.rejected[pairs.preferred == 0]
        assert set(corner.tolist()) == {1, 5}


def test_splits_keep_patients_whole() -> None:
    data = toy(1000)
    group = torch.arange(1000) // 7
    pairs = Preferences(data.features, data.preferred, data.rejected, group)
    parts = pairs.split(0.7, 0.15, 0.15, generator=generator())
    assert sum(len(p) for p in parts) == 1000
    groups = [set(p.group.tolist()) for p in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert abs(len(parts[0]) / 1000 - 0.7) < 0.02
    with pytest.raises(ValueError, match="sum to 1"):
        pairs.split(0.5, 0.4, generator=generator())
    with pytest.raises(ValueError, match="method='nearest'"):
        Preferences.of_choices(data.features, data.preferred, group, generator(), "nearest")


def test_random_evidence_is_uniform_without_replacement() -> None:
    shown = random_evidence(30_000, 10, 4, generator())
    assert shown.sum(1).tolist() == [4] * 30_000
    share = shown.float().mean(0)
    assert float((share - 0.4).abs().max()) < 5 * np.sqrt(0.4 * 0.6 / 30_000)


def test_a_judge_of_other_features_is_refused(tmp_path: Path) -> None:
    judge = Judge(NAMES, 6, 8).eval()
    judge.save(tmp_path / "judge.pt")
    loaded = Judge.load(tmp_path / "judge.pt", NAMES)
    x = torch.randn(4, 6)
    shown = torch.ones(4, 6, dtype=torch.bool)
    a = torch.tensor([0, 1, 2, 3])
    assert torch.equal(loaded(x, shown, a), judge(x, shown, a))
    swapped = (NAMES[1], NAMES[0], *NAMES[2:])
    with pytest.raises(ValueError, match="feature 0 is 'x0', and these have 'x1' there"):
        Judge.load(tmp_path / "judge.pt", swapped)
    with pytest.raises(ValueError, match="feature 5 is 'x5', and these have None there"):
        Judge.load(tmp_path / "judge.pt", NAMES[:5])


def test_the_mark_is_part_of_what_a_judge_reads() -> None:
    """A feature shown with the value 0 is not the same evidence as one that was not shown."""
    torch.manual_seed(0)
    judge = Judge(NAMES, 6, 8).eval().requires_grad_(False)
    x = torch.zeros(1, 6)
    shown = torch.zeros(1, 6, dtype=torch.bool)
    marked = shown.clone()
    marked[0, 2] = True
    a = torch.tensor([1])
    assert float(judge(x, shown, a)) != float(judge(x, marked, a))


# ---- the reward ------------------------------------------------------------------------------


def paying(**kwargs: Any) -> tuple[Any, DebateReward]:
    envs = gymnasium.make_vec(ENV, num_envs=8)
    fn = DebateReward(**kwargs)
    return VectorRewardWrapper(envs, fn), fn


def test_keeps_the_contract_of_reward_functions() -> None:
    check_reward(DebateReward(lam=0.5), ENV)


def by_pressure(features: Tensor) -> Tensor:
    """A baseline for features: more fluids where the mean pressure is low."""
    return torch.where(features[:, PAPER_FEATURES.index("MeanBP")] < 0, 15, 0)


def test_keeps_the_contract_on_features() -> None:
    def make(num_envs: int, autoreset_mode: Any) -> Any:
        return gymnasium.make_vec(
            ENV, num_envs=num_envs, obs="features", obs_noise=1.0, autoreset_mode=autoreset_mode
        )

    check_reward(DebateReward(baseline=by_pressure, utility="sign"), make, steps=12)


def test_is_found_by_name() -> None:
    envs = VectorRewardWrapper(
        gymnasium.make_vec(ENV, num_envs=2), make_reward("debate(lam=0.1, utility='sign')")
    )
    envs.reset(seed=0)
    _, _, _, _, info = envs.step(torch.tensor([3, 4]))
    assert set(info["reward_terms"]) == {"objective", "debate"}


def test_mixture_is_what_it_says() -> None:
    envs, fn = paying(lam=0.25, alpha=5.0, scale=15.0)
    envs.reset(seed=0)
    for _ in range(30):
        state = envs.unwrapped.state.index
        action = torch.arange(8) * 3 % 25
        _, reward, _, _, info = envs.step(action)
        want = 0.75 * 15 * info["objective"] + 0.25 * 5 * fn.table[state, action]
        torch.testing.assert_close(reward, want)
        torch.testing.assert_close(
            info["reward_terms"]["objective"] + info["reward_terms"]["debate"], reward
        )


def test_lambda_0_is_the_objective_and_lambda_1_ignores_it() -> None:
    for lam in (0.0, 1.0):
        envs, fn = paying(lam=lam, scale=1.0)
        envs.reset(seed=0)
        for _ in range(40):
            state = envs.unwrapped.state.index
            action = torch.full((8,), 7)
            _, reward, _, _, info = envs.step(action)
            want = info["objective"] if lam == 0 else 5 * fn.table[state, action]
            assert torch.equal(reward, want)


def test_lambda_0_gives_the_baseline_policy_bit_for_bit() -> None:
    _, fn = paying()
    mdp = mdp_of(ENV)
    _, base = policy_iteration(mdp.with_reward(15.0 * mdp.reward), 0.99)
    mixed = (1 - 0.0) * 15.0 * mdp.reward + 0.0 * 5.0 * fn.table.double()
    _, policy = policy_iteration(mdp.with_reward(mixed), 0.99)
    assert torch.equal(policy, base)


def test_the_baselines_own_action_and_ties_pay_nothing() -> None:
    for utility in ("win01", "sign", "margin"):
        _, fn = paying(utility=utility)
        rows = torch.arange(716)
        assert bool((fn.table[rows, fn.baseline] == 0).all())
        assert fn.table.shape == (716, 25) and bool((fn.table[:713] != 0).any())

    class Undecided(nn.Module):
        def forward(self, evidence: Tensor, shown: Tensor, action: Tensor) -> Tensor:
            return 0.0 * evidence[:, 0]

    _, fn = paying(judge=Undecided())
    assert bool((fn.table == 0).all())


def test_the_table_is_the_debate_and_features_pay_the_same() -> None:
    _, fn = paying(utility="sign")
    state, action = torch.tensor([5, 300, 700]), torch.tensor([24, 3, 11])
    signs = []
    for first in (0, 1):
        end, scores = fn.debate(state, action, first)
        signs.append((scores[:, 0] - scores[:, 1]).sign())
        assert end.shown.sum(1).tolist() == [6, 6, 6]
    torch.testing.assert_close(fn.table[state, action], (signs[0] + signs[1]) / 2)

    def table_of(features: Tensor) -> Tensor:
        near = torch.cdist(features, fn._states).argmin(1)
        return fn.baseline[near]

    envs = gymnasium.make_vec(ENV, num_envs=16, obs="features")
    seen = DebateReward(utility="sign", baseline=table_of, lam=1.0)
    wrapped = VectorRewardWrapper(envs, seen)
    wrapped.reset(seed=3)
    for _ in range(3):
        before = envs.state.index
        acts = torch.arange(16)
        _, reward, *_ = wrapped.step(acts)
        torch.testing.assert_close(reward, 5 * fn.table[before, acts])


def test_full_state_feedback_is_the_debate_of_all_features() -> None:
    _, full = paying(feedback="full_state", utility="sign")
    _, whole = paying(num_evidence=44, utility="sign")
    torch.testing.assert_close(full.table, whole.table)
    _, six = paying(utility="sign")
    assert not torch.equal(six.table, full.table)


def test_a_greedy_debater_asks_any_judge_for_every_candidate() -> None:
    """Through the one-call form of the linear judge, and through candidates, the same choice."""
    func = SepsisICU()
    args = (torch.tensor(x) for x in (func.evidence_table, func.expert_policy, func.expert_visits))
    judge = LinearJudge.of_policy(*args)
    x = torch.tensor(func.evidence_table)[:40]
    shown = random_evidence(40, 44, 3, generator())
    action = torch.arange(40) % 25
    fast = GreedyDebater(judge)(x, shown, action)
    slow = GreedyDebater(lambda e, m, a: judge(e, m, a))(x, shown, action)
    assert torch.equal(fast, slow) and not bool(shown.gather(1, fast.unsqueeze(1)).any())
    gain = judge(evidence_of(x, shown.scatter(1, fast.unsqueeze(1), True)), shown, action)
    for item in range(44):
        other = judge(evidence_of(x, shown | (torch.arange(44) == item)), shown, action)
        legal = ~shown[:, item]
        assert bool((gain >= other - 1e-5)[legal].all())


def test_a_01_reward_lengthens_stays_and_a_signed_one_less() -> None:
    """The trap: paid for a win in every step, the exact optimum keeps patients longer."""
    mdp = mdp_of(ENV)
    _, base = policy_iteration(mdp.with_reward(15.0 * mdp.reward), 0.99)
    lengths = {}
    for utility in ("win01", "sign"):
        _, fn = paying(baseline=base.argmax(1), utility=utility)
        reward = torch.where(mdp.terminal.unsqueeze(1), 0.0, 5.0 * fn.table.double())
        _, policy = policy_iteration(mdp.with_reward(reward), 0.99)
        lengths[utility] = float(occupancy(mdp, policy, 1.0).sum())
    alone = float(occupancy(mdp, base, 1.0).sum())
    assert alone == pytest.approx(9.1, abs=0.05)
    assert lengths["win01"] > lengths["sign"] + 0.2 and lengths["win01"] > alone + 2


def test_explains_in_words_and_clinical_units() -> None:
    env = RewardWrapper(gymnasium.make(ENV), DebateReward())
    fn = env.reward_function
    text = fn.explain(350, 11)
    lines = text.splitlines()
    assert lines[0].startswith("Patient in state 350, SOFA 6.5")
    assert "fluids level 2 (about 85 mL in 4 h)" in lines[1] and "vasopressor level 1" in lines[1]
    assert sum(line.startswith("  for the ") for line in lines) == 6
    end, scores = fn.debate(torch.tensor([350]), torch.tensor([11]))
    for item, line in zip(end.order[0].tolist(), lines[3:9], strict=True):
        name = PAPER_FEATURES[item]
        assert describe_feature(name, float(SepsisICU().evidence_table[350, item])) in line
    assert f"{float(scores[0, 0]):+.2f}" in lines[-1]
    assert ("is justified" in lines[-1]) == bool(scores[0, 0] > scores[0, 1])
    same = fn.explain(350, int(fn.baseline[350]))
    assert "nothing to debate" in same
    other = fn.explain(350, 11, first=1).splitlines()
    assert other[3].startswith("  for the baseline")
    bare = DebateReward(baseline=lambda x: torch.zeros(len(x), dtype=torch.int64))
    VectorRewardWrapper(gymnasium.make_vec(ENV, num_envs=1, obs="features"), bare)
    assert bare.explain(torch.zeros(44), 3).startswith("A patient")


def test_clinical_values_are_those_of_patients() -> None:
    """SOFA exactly; all others, of all 713 states, within what living patients have."""
    data = tables()
    mean, sd = sofa_scale()
    column = data.centres[:713, FEATURES.index("SOFA")]
    assert np.abs(mean + sd * column - data.sofa[:713]).mean() < 0.2
    assert set(CLINICAL) | {"SOFA", "gender", "mechvent", "max_dose_vaso", "re_admission"} == set(
        FEATURES
    )
    bounds = {
        "age": (18, 100), "GCS": (3, 15), "HR": (40, 180), "SysBP": (60, 200), "MeanBP": (40, 140),
        "Temp_C": (33, 41), "Arterial_pH": (6.9, 7.7), "Potassium": (2.5, 7.5), "SIRS": (0, 4),
        "Sodium": (110, 170), "FiO2_1": (0.2, 1.0), "SpO2": (50, 101), "Creatinine": (0.2, 10),
        "INR": (0.8, 10), "RR": (8, 45), "Hb": (5, 18), "Arterial_lactate": (0.5, 20),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        values = [raw_value(name, z) for z in data.centres[:713, FEATURES.index(name)]]
        assert low <= min(values) and max(values) <= high, (name, min(values), max(values))
    # What must agree with itself: the shock index is heart rate over systolic pressure.
    place = {k: FEATURES.index(k) for k in ("HR", "SysBP", "Shock_Index")}
    rows = data.centres[:713]
    raw = {k: np.array([raw_value(k, z) for z in rows[:, i]]) for k, i in place.items()}
    assert np.abs(raw["HR"] / raw["SysBP"] - raw["Shock_Index"]).mean() < 0.05


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lam": 1.5}, "lam=1.5"),
        ({"utility": "loss"}, "utility='loss'"),
        ({"feedback": "none"}, "feedback='none'"),
        ({"judge": "neural"}, "judge='neural': expected 'linear'"),
        ({"num_evidence": 1}, "num_evidence=1"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DebateReward(**kwargs)


def test_what_an_environment_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="offers no evidence_table"):
        VectorRewardWrapper(
            gymnasium.make_vec("rewardzoo/GridWorld-v0", num_envs=1), DebateReward()
        )
    with pytest.raises(ValueError, match="num_evidence=5"):
        paying(num_evidence=5)
    for baseline in ("expert", torch.zeros(716, dtype=torch.int64)):
        with pytest.raises(ValueError, match="function\\s+of the features"):
            VectorRewardWrapper(
                gymnasium.make_vec(ENV, num_envs=1, obs="features"), DebateReward(baseline=baseline)
            )
