"""The debate is zero-sum and fair, its batched, single and PettingZoo faces are one game."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewardzoo  # noqa: F401
from rewardzoo.envs.debate_trap.dynamics import DebateTrap, TrapCases
from rewardzoo.envs.sepsis.data import tables
from rewardzoo.envs.sepsis_debate.dynamics import SepsisDebate
from rewardzoo.envs.sepsis_debate.game import DebateGame
from rewardzoo.envs.sepsis_debate.patients import Patients
from rewardzoo.random import Rng
from rewardzoo.rewards.evidence import (
    GreedyDebater,
    evidence_of,
    hold_debate,
    margin,
    random_debater,
    utility,
)
from rewardzoo.testing import check_vector_env

PATIENTS = Patients()
IDS = ("rewardzoo/SepsisDebate-v0", "rewardzoo/DebateTrap-v0")


def rng(count: int, seed: int = 0) -> Rng:
    rows = torch.arange(count)
    return Rng(rows + seed, 0 * rows, 0)


def played(game: DebateGame, count: int, seed: int = 0) -> tuple[Any, Any]:
    """A whole game of random moves, and its start."""
    choose = random_debater(torch.Generator().manual_seed(seed))
    start = state = game.deal(rng(count, seed))
    while state.turn < game.num_evidence:
        state = game.play(state, choose(state.features, state.shown, state.actions[:, 0]))
    return start, state


@pytest.fixture(scope="module")
def patients() -> Patients:
    return Patients()


@pytest.mark.parametrize("id", IDS)
def test_keeps_the_contract_of_vector_environments(id: str) -> None:
    report = check_vector_env(id)
    assert report.saves and report.objective and report.terminated > 0


@pytest.mark.filterwarnings("ignore:.*Box observation space m.*")
@pytest.mark.parametrize("id", IDS)
def test_passes_gymnasiums_checker(id: str) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(gymnasium.make(id).unwrapped, skip_render_check=True)


def test_cases_are_clinicians_choices_against_uniform_others(patients: Patients) -> None:
    """100,000 cases: actions and rejected actions as often as they should be, within 5 SE."""
    count = 100_000
    case = patients.deal(rng(count))
    func = SepsisDebate().source
    assert torch.equal(func.deal(rng(9)).preferred, case.preferred[:9])
    assert bool((case.preferred != case.rejected).all())
    from rewardzoo.envs.sepsis.dynamics import SepsisICU

    model = SepsisICU()
    joint = model.expert_visits[:, None] * model.expert_policy
    marginal = joint.sum(0) / joint.sum()
    for found, p in (
        (case.preferred, marginal),
        ((case.rejected - case.preferred) % 25, np.array([0.0, *[1 / 24] * 24])),
    ):
        seen = np.bincount(found.numpy(), minlength=25) / count
        assert (np.abs(seen - p) <= 5 * np.sqrt(p * (1 - p) / count)).all()
    visits = model.expert_visits / model.expert_visits.sum()
    mean = visits @ patients.centres.numpy()
    spread = np.sqrt(visits @ (patients.centres.numpy() - mean) ** 2)
    error = np.abs(case.features.numpy().mean(0) - mean)
    assert (error <= 5 * spread / np.sqrt(count)).all()


def test_noise_has_the_cohorts_variance() -> None:
    noisy = Patients(obs_noise=1.0).deal(rng(50_000)).features
    calm = Patients().deal(rng(50_000)).features
    within = 1.0 - Patients().centres[:714].var(0, unbiased=False).clamp(max=1.0)
    np.testing.assert_allclose((noisy - calm).var(0).numpy(), within.numpy(), rtol=0.05, atol=1e-6)


@given(seed=st.integers(0, 10_000), half=st.integers(1, 6))
@settings(max_examples=12, deadline=None)
def test_every_debate_shows_exactly_l_features_and_is_zero_sum(seed: int, half: int) -> None:
    game = DebateGame(PATIENTS, num_evidence=2 * half)
    start, end = played(game, 16, seed)
    assert end.shown.sum(1).tolist() == [2 * half] * 16
    assert bool((game.utilities(start) == 0).all())
    paid = game.utilities(end)
    assert torch.equal(paid.sum(1), torch.zeros(16)) and not bool(end.illegal.any())
    assert torch.equal(evidence_of(end.features, end.shown)[end.shown], end.features[end.shown])
    assert bool((evidence_of(end.features, end.shown)[~end.shown] == 0).all())


def test_sides_swap_with_the_sign_and_equal_actions_tie(patients: Patients) -> None:
    judge = patients.judge()
    case = patients.deal(rng(500))
    pair = torch.stack([case.preferred, case.rejected], 1)
    end = hold_debate(
        (GreedyDebater(judge),) * 2, case.features, pair, torch.arange(500) % 2, num_evidence=6
    )
    for kind in ("sign", "margin"):
        ours = utility(judge, case.features, end.shown, pair, kind)
        theirs = utility(judge, case.features, end.shown, pair.flip(1), kind)
        torch.testing.assert_close(ours, -theirs, atol=1e-5, rtol=0)
    same = pair[:, :1].expand(-1, 2)
    assert bool((margin(judge, case.features, end.shown, same) == 0).all())
    # Both sides spoke three times, none twice of one feature.
    assert (end.speaker == 0).sum(1).tolist() == [3] * 500
    assert bool((end.order.sort(1).values.diff(dim=1) > 0).all())


def test_the_order_of_showing_does_not_change_the_score(patients: Patients) -> None:
    game = DebateGame(patients)
    state = game.deal(rng(1))
    ends = []
    for items in ([3, 1, 4, 15, 9, 2], [2, 9, 15, 4, 1, 3]):
        end = state
        for item in items:
            end = game.play(end, torch.tensor([item]))
        ends.append(margin(game.judge, end.features, end.shown, end.actions))
    assert torch.equal(*ends)


def test_all_features_shown_is_the_full_state_judge_whoever_debates(patients: Patients) -> None:
    judge = patients.judge()
    case = patients.deal(rng(50))
    pair = torch.stack([case.preferred, case.rejected], 1)
    everything = torch.ones_like(case.features, dtype=torch.bool)
    full = margin(judge, case.features, everything, pair)
    for debater in (GreedyDebater(judge), random_debater(torch.Generator().manual_seed(0))):
        end = hold_debate((debater,) * 2, case.features, pair, pair[:, 0] % 2, num_evidence=44)
        assert torch.equal(margin(judge, case.features, end.shown, pair), full)


def test_showing_a_feature_twice_loses(patients: Patients) -> None:
    game = DebateGame(patients, num_evidence=2)
    state = game.deal(rng(8))
    for _ in range(2):
        state = game.play(state, torch.zeros(8, dtype=torch.int64))
    second = 1 - state.first
    paid = game.utilities(state)
    assert paid.gather(1, second.unsqueeze(1)).eq(-1).all() and paid.sum(1).eq(0).all()
    envs = gymnasium.make_vec(IDS[0], num_envs=3)
    envs.reset(seed=0)
    envs.step(torch.tensor([1, 2, 3]))
    _, reward, terminated, _, info = envs.step(torch.tensor([1, 5, 3]))
    assert reward.tolist() == [-1, 0, -1] and terminated.tolist() == [True, False, True]
    assert info["illegal"].tolist() == [True, False, True]


def test_the_mark_tells_a_feature_shown_at_zero_from_one_not_shown() -> None:
    """Without the marks a debater and a judge could not see what the mean patient's value shows."""
    game = DebateGame(Patients())
    state = game.deal(rng(1))
    state = state._replace(features=torch.zeros_like(state.features))
    after = game.play(state, torch.tensor([7]))
    before, seen = (game.observe(s, torch.tensor([0]))["observation"] for s in (state, after))
    changed = (before != seen)[0].nonzero().squeeze(1).tolist()
    assert changed == [44 + 7]


def test_a_batch_row_is_the_single_debate() -> None:
    params: dict[str, Any] = {"opponent": GreedyDebater(Patients().judge()), "role": "either"}
    envs = gymnasium.make_vec(IDS[0], num_envs=5, **params)
    env = gymnasium.make(IDS[0], disable_env_checker=True, **params)
    for turn in range(4):
        if turn == 0:
            many, _ = envs.reset(seed=10)
            one, _ = env.reset(seed=13)
        else:
            item = int(one["action_mask"].argmax())
            many, reward, *_ = envs.step(many["action_mask"].argmax(1))
            one, paid, terminated, *_ = env.step(item)
            assert paid == float(reward[3])
            if terminated:
                break
        np.testing.assert_array_equal(many["observation"][3].numpy(), one["observation"])
    assert turn == 3


@pytest.mark.parametrize("turns", ["alternate", "precommit"])
@pytest.mark.parametrize("role", ["proponent", "confuser", "either"])
def test_an_opponent_moves_when_it_is_due(role: str, turns: str) -> None:
    """Each side shows half; the learner sees an answer, or the whole half, as the turns say."""
    calls: list[torch.Tensor] = []

    def opponent(features: torch.Tensor, shown: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        calls.append(shown.sum(1))
        return shown.to(torch.int8).argmin(1)

    envs = gymnasium.make_vec(
        IDS[0], num_envs=64, opponent=opponent, role=role, turns=turns, num_evidence=4
    )
    obs, _ = envs.reset(seed=0)
    begun = (obs["action_mask"] == 0).sum(1)
    if turns == "alternate":
        assert set(begun.tolist()) == {0, 1}
    else:
        wanted = {"proponent": {0}, "confuser": {2}, "either": {0, 2}}[role]
        assert set(begun.tolist()) == wanted
    for step in range(2):
        pick = 43 - (obs["action_mask"].flip(1)).argmax(1)
        obs, _, terminated, _, info = envs.step(pick)
        assert bool(terminated.all()) == (step == 1)
    assert bool(((info["final_obs"]["action_mask"] == 0).sum(1) == 4).all())
    assert bool(calls[0].ge(0).all())


def test_the_trap_pays_what_it_says() -> None:
    cases = TrapCases()
    judge = cases.judge()
    case = cases.deal(rng(2))._replace(features=torch.ones(2, 44))
    pair = torch.stack([case.preferred, case.rejected], 1)
    shown = torch.zeros(2, 44, dtype=torch.bool)
    shown[0, [0, 1, 2, 3, 4, 5]] = True  # three against three, twice as strong
    shown[1, [0, 1, 6, 3, 4, 5]] = True  # and with the neutraliser
    assert margin(judge, case.features, shown, pair).tolist() == pytest.approx([-0.5, 0.25])
    present = cases.deal(rng(40_000)).features[:, 6]
    assert abs(float(present.mean()) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 40_000)
    assert DebateTrap().params.utility == "margin"


def test_reference_returns_of_random_and_greedy_features() -> None:
    envs = gymnasium.make_vec(IDS[0], num_envs=20_000)
    generator = torch.Generator().manual_seed(0)
    judge = envs.func.judge
    for debater, value in (
        (random_debater(generator), RANDOM),
        (GreedyDebater(judge), GREEDY),
    ):
        obs, _ = envs.reset(seed=1)
        for _ in range(6):
            features, shown = obs["observation"][:, :44], obs["action_mask"] == 0
            own = obs["observation"][:, 88:].argmax(1)
            obs, reward, *_ = envs.step(debater(features, shown, own))
        assert abs(float(reward.mean()) - value) < 0.005 + 5 / np.sqrt(20_000)


RANDOM, GREEDY = 0.122, 0.887


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"role": "judge"}, "role='judge'"),
        ({"turns": "random"}, "turns='random'"),
        ({"num_evidence": 5}, "num_evidence=5: expected an even number from 2 to 44"),
        ({"utility": "loss"}, "utility='loss'"),
        ({"obs_noise": -1.0}, "obs_noise=-1.0"),
        ({"opponent": 3}, "opponent=3"),
    ],
)
def test_bad_parameters_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SepsisDebate(**kwargs)


def test_renders_as_text() -> None:
    env = gymnasium.make(IDS[0], render_mode="ansi")
    env.reset(seed=0)
    assert "nothing shown" in env.render()
    env.step(2)
    assert "age" in env.render()


class TestPettingZoo:
    """The same game behind PettingZoo's interfaces, which its own suites check."""

    @pytest.fixture(scope="class")
    def module(self) -> Any:
        pytest.importorskip("pettingzoo")
        from rewardzoo.envs.sepsis_debate import sepsis_debate_v0

        return sepsis_debate_v0

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_api_test(self, module: Any) -> None:
        from pettingzoo.test import api_test

        api_test(module.env(), num_cycles=50)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_parallel_api_test(self, module: Any) -> None:
        from pettingzoo.test import parallel_api_test

        parallel_api_test(module.parallel_env(), num_cycles=50)

    def test_seed_tests(self, module: Any) -> None:
        from pettingzoo.test import parallel_seed_test, seed_test

        seed_test(module.env, num_cycles=20)
        parallel_seed_test(module.parallel_env, num_cycles=20)

    def test_both_are_row_zero_of_the_batch(self, module: Any, patients: Patients) -> None:
        game = DebateGame(patients)
        env, parallel = module.env(), module.parallel_env()
        for seed in range(6):
            env.reset(seed=seed)
            found, infos = parallel.reset(seed=seed)
            state = game.deal(rng(3, seed))
            while state.turn < 6:
                agent = env.agent_selection
                player = int(game.to_move(state)[0])
                assert agent == module.AGENTS[player]
                assert [infos[a]["to_move"] for a in module.AGENTS].index(True) == player
                want = game.observe(state)
                got = env.observe(agent)
                for key in ("observation", "action_mask"):
                    np.testing.assert_array_equal(got[key], want[key][0].numpy())
                    np.testing.assert_array_equal(found[agent][key], got[key])
                item = int(got["action_mask"].nonzero()[0][(7 * state.turn) % 30])
                env.step(item)
                found, paid, over, _, infos = parallel.step(dict.fromkeys(module.AGENTS, item))
                state = game.play(state, torch.full((3,), item))
            ours, theirs = game.utilities(state)[0].tolist()
            assert env.rewards == paid == dict(zip(module.AGENTS, (ours, theirs), strict=True))
            assert all(over.values()) and all(env.terminations.values()) and ours == -theirs

    def test_who_begins_is_a_fair_coin(self, module: Any) -> None:
        env = module.env()
        firsts = []
        for seed in range(400):
            env.reset(seed=seed)
            firsts.append(env.agent_selection == "proponent_0")
        assert abs(np.mean(firsts) - 0.5) < 5 * 0.5 / np.sqrt(400)

    def test_a_feature_shown_twice_raises(self, module: Any) -> None:
        env = module.env()
        env.reset(seed=0)
        env.step(2)
        with pytest.raises(ValueError, match="action=2: proponent_. shows 'age', .* before"):
            env.step(2)
        parallel = module.parallel_env(render_mode="ansi")
        parallel.reset(seed=0)
        parallel.step(dict.fromkeys(module.AGENTS, 2))
        assert "age" in parallel.render()
        with pytest.raises(ValueError, match="shown before"):
            parallel.step(dict.fromkeys(module.AGENTS, 2))
        with pytest.raises(ValueError, match="whose turn it is"):
            parallel.step({})


def test_the_44_features_leave_the_action_out() -> None:
    assert not set(Patients.feature_names) & {"max_dose_vaso", "re_admission", "input_4hourly"}
    assert len(Patients.feature_names) == 44 and len(tables().centres[0]) == 47
