"""Debaters learn small games to their exact value, and never show a feature twice."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rewardzoo  # noqa: F401
from rewardzoo.agents.common.hyperparameters import build
from rewardzoo.agents.debate import DebaterHyperparameters as Hyperparameters
from rewardzoo.agents.debate import PolicyDebater, Side, score, train_confuser, train_debater
from rewardzoo.agents.debate_exact import solve_debate, worst_case
from rewardzoo.envs.debate_trap.dynamics import NEUTRALISER, TrapCases
from rewardzoo.envs.sepsis_debate.patients import Patients
from rewardzoo.random import Rng
from rewardzoo.rewards.evidence import hold_debate, random_debater, utility

TRAP = "rewardzoo/DebateTrap-v0"
SMALL: dict[str, Any] = {"num_debates": 64, "hidden": (32,), "num_minibatches": 2}


def trap(count: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(count) + 77
    case = TrapCases().deal(Rng(rows, 0 * rows, 0))
    return case.features, torch.stack([case.preferred, case.rejected], 1)


def tiny(seed: int) -> tuple[Any, Tensor, Tensor]:
    """Five features, three actions, and a judge with interactions."""
    g = torch.Generator().manual_seed(seed)
    weight, cross = torch.randn(3, 5, generator=g), torch.randn(3, 5, 5, generator=g)

    def judge(evidence: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        pairs = torch.einsum("bi,bij,bj->b", evidence, cross[action], evidence)
        return (evidence * weight[action]).sum(1) + pairs

    features = torch.randn(6, 5, generator=g)
    pair = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 1], [1, 2], [2, 0]])
    return judge, features, pair


def brute_force(judge: Any, x: Tensor, pair: Tensor, left: int, mine: bool, shown: Tensor) -> float:
    """The value by plain recursion over one case."""
    if left == 0:
        return float(utility(judge, x, shown, pair, "margin"))
    values = [
        brute_force(judge, x, pair, left - 1, not mine, shown | (torch.arange(5) == i))
        for i in range(5)
        if not bool(shown[0, i])
    ]
    return max(values) if mine else min(values)


@pytest.mark.parametrize("num_evidence", [2, 4])
def test_enumeration_is_plain_recursion(num_evidence: int) -> None:
    judge, features, pair = tiny(num_evidence)
    found = solve_debate(judge, features, pair, num_evidence, "margin")
    for i in range(3):
        for begins in (0, 1):
            want = brute_force(
                judge, features[i : i + 1], pair[i : i + 1], num_evidence, begins == 0,
                torch.zeros(1, 5, dtype=torch.bool),
            )  # fmt: skip
            assert float(found[i, begins]) == pytest.approx(want, abs=1e-5)


def test_the_game_is_zero_sum_at_its_exact_value() -> None:
    """The value of a case for one side is minus that of the other side's."""
    judge, features, pair = tiny(3)
    mine = solve_debate(judge, features, pair, 4, "margin")
    theirs = solve_debate(judge, features, pair.flip(1), 4, "margin")
    torch.testing.assert_close(mine, -theirs.flip(1), atol=1e-5, rtol=0)


def test_the_worst_case_bounds_every_confuser_and_minimax_bounds_the_worst_case() -> None:
    judge, features, pair = tiny(5)
    agent = random_debater(torch.Generator().manual_seed(0))

    def first(features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        return shown.to(torch.int8).argmin(1)

    worst = worst_case(judge, first, features, pair, 4, "margin")
    value = solve_debate(judge, features, pair, 4, "margin")
    assert bool((worst <= value + 1e-5).all())
    for begins in (0, 1):
        for _ in range(20):
            start = torch.full((6,), begins)
            end = hold_debate((first, agent), features, pair, start, 4)
            got = utility(judge, features, end.shown, pair, "margin")
            assert bool((worst[:, begins] <= got + 1e-5).all())


def test_the_traps_values_are_what_its_card_says() -> None:
    features, pair = trap(40)
    judge = TrapCases().judge()
    present = features[:, NEUTRALISER] > 0
    value = solve_debate(judge, features, pair, 6, "margin", range(13))
    want = torch.where(present, 0.25, -0.5).unsqueeze(1).expand(-1, 2)
    torch.testing.assert_close(value, want)

    def never_neutral(features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        return shown.to(torch.int8).argmin(1)  # for_0, for_1, for_2: the best without an answer

    end = hold_debate((never_neutral,) * 2, features, pair[:, :1].expand(-1, 2), pair[:, 0], 6)
    alone = end.shown.clone()
    alone[:, 3:6] = False
    assert utility(judge, features, alone, pair, "margin").tolist() == [0.5] * 40
    worst = worst_case(judge, never_neutral, features, pair, 6, "margin", range(10))
    # Answered feature for feature it even runs out of features of its own.
    assert bool((worst <= -0.5).all())


def test_too_many_features_are_refused() -> None:
    features, pair = trap(1)
    with pytest.raises(ValueError, match="44 features, expected 6 to 16"):
        solve_debate(TrapCases().judge(), features, pair, 6)


@pytest.mark.parametrize("mode", ["isolated", "precommit", "selfplay", "maxmin"])
def test_trains_in_every_mode_and_shows_nothing_twice(mode: str) -> None:
    updates: list[int] = []
    agent = train_debater(
        mode, updates=3, generation=2, confuser_updates=1, progress=lambda i, m: updates.append(i),
        **SMALL,
    )  # fmt: skip
    assert updates == [1, 2, 3]
    rows = torch.arange(50)
    case = Patients().deal(Rng(rows, 0 * rows, 0))
    pair = torch.stack([case.preferred, case.rejected], 1)
    end = hold_debate((agent, agent), case.features, pair, rows % 2, 6)
    assert bool((end.order.sort(1).values.diff(dim=1) > 0).all())
    assert not any(p.requires_grad for p in agent.parameters())


def test_a_mask_leaves_no_probability_and_entropy_counts_legal_moves_only() -> None:
    hp = build(Hyperparameters, SMALL)
    agent = Side(hp, 0, None, "proponent").agent
    rollout, _ = agent.collect()
    chosen = rollout.obs["action_mask"].gather(2, rollout.action.unsqueeze(2))
    assert bool((chosen == 1).all())
    obs = {k: v.reshape(-1, *v.shape[2:]) for k, v in rollout.obs.items()}
    with torch.no_grad():
        logits = agent.network.actor(obs)
        action = obs["action_mask"].argmax(1)
        _, entropy = agent.distribution.logp_entropy(logits, None, action)
    probs = logits.softmax(1)
    assert float(probs[obs["action_mask"] == 0].max()) == 0
    legal = obs["action_mask"].sum(1)
    assert bool((entropy <= legal.float().log() + 1e-5).all())
    assert float(entropy[legal == 44].mean()) > 3.7  # a new policy is nearly uniform: log 44 = 3.78


def test_an_opponent_is_a_frozen_copy() -> None:
    hp = build(Hyperparameters, SMALL)
    side = Side(hp, 0, lambda x, m, a: m.to(torch.int8).argmin(1), "either")
    before = side.debater()
    side.meet(before)
    kept = [p.clone() for p in before.parameters()]
    side.learn(2, lambda metrics: None)
    after = side.debater()
    assert all(torch.equal(a, b) for a, b in zip(kept, before.parameters(), strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True)
    )


def test_saved_debaters_argue_the_same(tmp_path: Path) -> None:
    agent = train_debater("isolated", updates=1, **SMALL)
    agent.save(tmp_path / "debater.pt")
    loaded = PolicyDebater.load(tmp_path / "debater.pt")
    x, shown = torch.randn(20, 44), torch.rand(20, 44) < 0.3
    action = torch.arange(20)
    assert torch.equal(agent(x, shown, action), loaded(x, shown, action))
    assert not bool(shown.gather(1, loaded(x, shown, action).unsqueeze(1)).any())


def test_unknown_modes_and_settings_are_named() -> None:
    with pytest.raises(ValueError, match="mode='minimax'"):
        train_debater("minimax")
    with pytest.raises(TypeError, match="did you mean 'updates'"):
        train_debater("isolated", update=3)


def test_score_counts_wins_of_the_agents_action() -> None:
    features, pair = trap(32)
    judge = TrapCases().judge()

    def in_order(items: list[int]) -> Any:
        rank = torch.full((44,), 99)
        rank[items] = torch.arange(len(items))

        def choose(features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
            return (rank + 1000 * shown).argmin(1)

        return choose

    alone = score(features, pair, judge, in_order([0, 1, 2, 20, 21, 22]))
    assert alone.win == 1.0 and alone.margin == pytest.approx(0.5)
    fooled = score(features, pair, judge, in_order([0, 1, 2]), in_order([3, 4, 5]))
    assert fooled.win == 0.0 and fooled.margin == pytest.approx(-0.5)
    for turns in ("alternate", "precommit"):
        wise = score(features, pair, judge, in_order([6, 0, 1]), in_order([3, 4, 5]), turns=turns)
        assert wise.win == float((features[:, NEUTRALISER] > 0).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["selfplay", "maxmin"])
def test_debaters_reach_the_minimax_value_of_the_trap_and_isolation_does_not(mode: str) -> None:
    """Held against every sequence that a confuser can show; .05 of the enumerated value."""
    features, pair = trap(64)
    judge = TrapCases().judge()
    value = float(solve_debate(judge, features, pair, 6, "margin", range(13)).mean())
    agent = train_debater(mode, seed=1, env=TRAP, updates=400, confuser_updates=10)
    worst = float(worst_case(judge, agent, features, pair, 6, "margin", range(10)).mean())
    assert abs(worst - value) <= 0.05
    alone = train_debater("isolated", seed=1, env=TRAP, updates=100)
    confuser = train_confuser(alone, seed=2, env=TRAP, updates=100)
    assert score(features, pair, judge, alone).win == 1.0
    assert score(features, pair, judge, alone, confuser).margin < -0.3


def test_every_line_of_a_confuser_is_tried() -> None:
    """The worst case over two moves of four features equals trying all twelve by hand."""
    judge, features, pair = tiny(8)
    items = (0, 1, 2, 3)

    def last(features: Tensor, shown: Tensor, action: Tensor) -> Tensor:
        return 4 - shown.to(torch.int8).flip(1).argmin(1)

    found = worst_case(judge, last, features, pair, 4, "margin", items)
    best = torch.full((6,), torch.inf)
    for line in itertools.permutations(items, 2):
        shown = torch.zeros(6, 5, dtype=torch.bool)
        for wanted in line:
            shown = shown.scatter(1, last(features, shown, pair[:, 0]).unsqueeze(1), True)
            free = [[i for i in (wanted, *items) if not bool(row[i])][0] for row in shown]
            shown = shown.scatter(1, torch.tensor(free).unsqueeze(1), True)
        best = torch.minimum(best, utility(judge, features, shown, pair, "margin"))
    torch.testing.assert_close(found[:, 0], best)
