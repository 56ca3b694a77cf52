"""shaping_pitfalls: the slips are what they are called, optima are exact, claims can fail."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from rewardzoo import VectorRewardWrapper
from rewardzoo.agents.ppo import PPO
from rewardzoo.agents.tabular import expected_return, mdp_of, policy_iteration
from rewardzoo.experiments import shaping_pitfalls as pitfalls
from rewardzoo.experiments.common.shaping_errors import (
    COUNTER_EXAMPLES,
    GAMMA,
    MixedInReplay,
    Progress,
    ResetAsSuccessor,
    TerminalKept,
    Undiscounted,
    expected_pay,
    slips,
    table,
)
from rewardzoo.experiments.common.shaping_exact import counter_examples, look_ahead, q_learning
from rewardzoo.experiments.common.shaping_frameworks import (
    dead_steps,
    episode_sums,
    running_returns,
)
from rewardzoo.results import ArmResult, Results
from rewardzoo.rewards import Potential
from rewardzoo.testing.rewards import check_reward

NOISE = np.array([-0.02, 0.01, 0.0, 0.02, -0.01])


class Trial:
    """As much of a trial as these need."""

    seed = 3
    budget = pitfalls.EXPERIMENT.budgets["smoke"]

    def log(self, step: int, **numbers: float) -> None:
        pass


# ---- exact ---------------------------------------------------------------------------------------


def test_each_slip_moves_the_optimum_of_its_counter_example_by_hand() -> None:
    found = counter_examples(Trial())
    assert found["terminal_right"] == pytest.approx(1.0)
    assert found["terminal_wrong"] == pytest.approx(1.0 - 0.9 * 2.0)
    # 10 gained and 10 lost in turns: 10 / (1 + gamma), against .5
    assert found["discount_wrong"] == pytest.approx(0.5 - 10.0 / 1.9)
    assert found["reset_right"] == pytest.approx((0.5 / 0.1 - 10.0) - (-10.0), abs=1e-8)
    # Living is worth 5 - 10; dying is paid 9 - 10 at once, living on for one more step .5 - 1.
    assert found["reset_wrong"] == pytest.approx((0.5 - 1.0 + 0.9 * -1.0) - (-1.0), abs=1e-8)
    assert found["replay_right"] == pytest.approx(1.0)
    assert found["replay_wrong"] == pytest.approx(1.0 - 0.9 * 10.0)
    assert found["progress_wrong"] == pytest.approx(0.5 - 10.0 / (1.0 - 0.81))
    for slip in COUNTER_EXAMPLES:
        assert found[f"{slip}_right"] > 0 > found[f"{slip}_wrong"]


@pytest.mark.parametrize("slip", list(COUNTER_EXAMPLES))
def test_without_a_potential_no_slip_moves_an_optimum(slip: str) -> None:
    example = COUNTER_EXAMPLES[slip]
    states = len(example.phi)
    zero = torch.zeros(states, dtype=torch.float64)
    nothing = slips(zero, zero, states)[slip]
    assert example.advantage(expected_pay(nothing, example.mdp)) > 0


def test_shaping_is_initialisation_and_look_ahead_too() -> None:
    for found in (q_learning(Trial()), look_ahead(Trial())):
        assert found["same_actions"] == 1.0 and found["apart"] < 1e-12


def test_the_corridor_has_the_optimum_that_each_slip_is_said_to_give_it() -> None:
    envs = type("Envs", (), {"device": "cpu"})
    mdp = mdp_of(pitfalls.ENV, map=pitfalls.MAP)
    ends = {}
    makers: dict[str, Any] = {s: pitfalls.with_slip(s) for s in pitfalls.LEARNED}
    for name, make in {"right": pitfalls.by_potential, **makers}.items():
        shaping = make(envs).parts[1]
        _, policy = policy_iteration(
            mdp.with_reward(mdp.reward + expected_pay(shaping, mdp)), GAMMA
        )
        ends[name] = float(expected_return(mdp, policy, GAMMA))
    best, _ = policy_iteration(mdp, GAMMA)
    assert ends["right"] == pytest.approx(float(best @ mdp.initial), abs=1e-9)
    assert ends["terminal"] < -0.4  # the trap
    for slip in ("discount", "reset", "progress"):
        assert ends[slip] == pytest.approx(0.0, abs=1e-9)  # for ever on the way


# ---- the slips -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: TerminalKept(lambda s: s * 0.5),
        lambda: Undiscounted(lambda s: s * 0.5),
        lambda: ResetAsSuccessor(lambda s: s * 0.5, torch.zeros_like),
        lambda: MixedInReplay(lambda s: s * 0.5, lambda s: s * 0.1),
        lambda: Progress(lambda s: s * 0.5),
    ],
)
def test_slips_keep_the_contract_otherwise(make: Any) -> None:
    check_reward(make, pitfalls.ENV, num_envs=3, steps=20, meta=False)


def test_reset_as_successor_is_what_shaping_of_returned_observations_pays() -> None:
    """The wrapper that one writes first: gamma * phi(returned) - phi(returned before)."""
    phi = torch.tensor([3.0, 1.0, -2.0, 5.0, 0.5, 7.0, -1.0, 2.0, 4.0])
    make = {"map": pitfalls.MAP, "autoreset_mode": AutoresetMode.SAME_STEP}
    start = pitfalls.MAP.index("S")
    ours = ResetAsSuccessor(table(phi), lambda obs: torch.full_like(obs, start))
    envs = VectorRewardWrapper(
        gymnasium.make_vec(pitfalls.ENV, 4, max_episode_steps=9, **make), ours
    )
    right = Potential(phi, GAMMA)
    before, _ = envs.reset(seed=0)
    torch.manual_seed(0)
    differs = 0
    for _ in range(80):
        obs, reward, terminated, truncated, _ = envs.step(torch.randint(4, (4,)))
        assert torch.allclose(reward, GAMMA * phi[obs] - phi[before])
        done = terminated | truncated
        differs += int((reward != right(envs.transition)).logical_and(done).sum())
        before = obs
    assert differs > 10


def test_a_shaping_with_another_discount_than_the_agents_is_refused() -> None:
    envs = gymnasium.make_vec(pitfalls.ENV, 2, map=pitfalls.MAP)
    shaped = VectorRewardWrapper(envs, Potential([0.0] * 9, gamma=1.0))
    with pytest.raises(ValueError, match="with two discounts the optimum moves"):
        PPO(shaped, gamma=GAMMA)


def test_gymnasiums_wrappers_err_and_ours_do_not() -> None:
    """Episodes of 2 and 4 steps, step k of episode e pays 10 e + k: the first of each is lost."""
    sums = episode_sums()
    assert sums["sum_ours"] == 0.0 and sums["sum_theirs"] == 31.0
    assert dead_steps() == {"dead_theirs": 1.0, "dead_ours": 0.0}
    running = running_returns()
    assert running["running_ours"] < 1e-5 < 10.0 < running["running_theirs"]


# ---- claims --------------------------------------------------------------------------------------


def results(**arms: Any) -> Results:
    made = []
    for label, values in arms.items():
        final = values if isinstance(values, dict) else {"objective": np.asarray(values) + NOISE}
        final = {k: np.broadcast_to(np.asarray(v, np.float64), (5,)) for k, v in final.items()}
        made.append(ArmResult(label, "", "", "", list(range(5)), {}, final))
    return Results("x", "", "", made, "", "", {})


@pytest.mark.parametrize(("wrong", "outcome"), [(-0.4, "holds"), (0.1, "fails")])
def test_examples_claim(wrong: float, outcome: str) -> None:
    final = {f"{s}_right": 1.0 for s in pitfalls.SLIPS} | {
        f"{s}_wrong": wrong for s in pitfalls.SLIPS
    }
    assert pitfalls.examples_flip(results(**{pitfalls.EXAMPLES: final})).outcome == outcome


@pytest.mark.parametrize(("right", "outcome"), [(0.0, "holds"), (0.001, "fails")])
def test_no_optimum_moves_claim(right: float, outcome: str) -> None:
    made = results(**{pitfalls.RANDOM: {"right": right}})
    assert pitfalls.right_moves_nothing(made).outcome == outcome


@pytest.mark.parametrize(
    ("rarest", "outcome"),
    [(0.2, "holds"), (0.05, "fails"), (0.1 + NOISE, "inconclusive")],
)
def test_many_optima_move_claim(rarest: Any, outcome: str) -> None:
    final = {slip: 0.5 for slip in pitfalls.SLIPS} | {"reset": rarest}
    assert pitfalls.slips_move_optima(results(**{pitfalls.RANDOM: final})).outcome == outcome


@pytest.mark.parametrize(
    ("apart", "actions", "outcome"),
    [(1e-15, 1.0, "holds"), (1e-3, 1.0, "fails"), (1e-15, 0.99, "fails")],
)
def test_initialisation_claims(apart: float, actions: float, outcome: str) -> None:
    final = {"apart": apart, "same_actions": actions, "acting_on_q": 0.9}
    made = results(**{pitfalls.Q_LEARNING: final, pitfalls.ADVICE: final})
    assert pitfalls.shaping_is_initialisation(made).outcome == outcome
    assert pitfalls.advice_needs_the_agent(made).outcome == outcome


def test_advice_claim_fails_where_acting_on_q_loses_nothing() -> None:
    final = {"apart": 0.0, "same_actions": 1.0, "acting_on_q": 0.0}
    assert pitfalls.advice_needs_the_agent(results(**{pitfalls.ADVICE: final})).outcome == "fails"


@pytest.mark.parametrize(("theirs", "ours", "outcome"), [(1.0, 0.0, "holds"), (0.0, 0.0, "fails"), (1.0, 0.5, "fails")])  # fmt: skip
def test_wrappers_claim(theirs: float, ours: float, outcome: str) -> None:
    final = {f"{n}_{w}": v for n in ("sum", "dead", "running") for w, v in (("theirs", theirs), ("ours", ours))}  # fmt: skip
    assert pitfalls.wrappers_slip(results(**{pitfalls.FRAMEWORKS: final})).outcome == outcome


@pytest.mark.parametrize(
    ("shaped", "outcome"), [(1.0, "holds"), (0.8, "fails"), (1.0 + 6 * NOISE, "inconclusive")]
)
def test_corridor_claim(shaped: Any, outcome: str) -> None:
    made = results(**{pitfalls.PLAIN: 1.0, pitfalls.SHAPED: shaped})
    assert pitfalls.shaped_corridor(made).outcome == outcome


@pytest.mark.parametrize(
    ("mine", "outcome"),
    [(0.0, "holds"), (1.5, "fails"), (np.array([0.0, 1.5, 1.0, 0.9, 1.2]), "inconclusive")],
)
def test_ends_below_claim(mine: Any, outcome: str) -> None:
    made = results(a=mine, b=1.0)
    assert pitfalls.ends_below("a below b", "a", "b")(made).outcome == outcome
