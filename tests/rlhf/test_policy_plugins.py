"""The experiment on policy plug-ins: its rewards and its task, and claims that can go each way."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rewardzoo.experiment import Budget
from rewardzoo.experiments import rlhf_policy_plugins as module
from rewardzoo.experiments.rlhf_policy_plugins import Redundant, Shifted
from rewardzoo.jobs import Job, run_job
from rewardzoo.results import ArmResult, Results
from rewardzoo.rlhf.sequences import pack

NOISE = np.array([-0.4, 0.3, -0.2, 0.1, 0.4, -0.3, 0.2, -0.1])


def test_what_all_answers_to_a_prompt_are_paid_more_is_not_in_their_differences():
    config = SimpleNamespace(prompt_length=4, vocab_size=32)
    lab = SimpleNamespace(
        config=config, generator=lambda stream: torch.Generator().manual_seed(stream)
    )
    g = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, 32, (500, 4), generator=g).repeat_interleave(2, 0)
    batch = pack(prompts.tolist(), torch.randint(2, 32, (1000, 3), generator=g).tolist())
    scores = torch.randn(1000, generator=g)
    plain, shifted = (Shifted(lambda b: scores, x, lab)(batch) for x in (0.0, 10.0))
    assert (plain - scores).abs().max() <= 0.5 / 1024
    assert float((shifted - plain).std()) == pytest.approx(10, rel=0.25)
    first, second = (x.view(-1, 2) for x in (plain, shifted))
    assert torch.equal(first[:, 0] - first[:, 1], second[:, 0] - second[:, 1])
    assert torch.equal(shifted.view(-1, 2) - first, (second - first)[:, :1].expand(-1, 2))


def symbols(text):
    return ["0123456789+=;#$".index(c) for c in text]


@pytest.mark.parametrize(
    ("answer", "steps", "right", "verified"),
    [
        ("1+2=3;3+3=6;6+4=0;0+5=5;#5$", 4, 4, True),
        ("1+2=3;3+0=3;3+0=3;3+3=6;6+4=0;0+5=5;#5$", 6, 6, True),
        ("1+2=4;4+3=7;7+4=1;1+5=6;#6$", 4, 3, False),
        ("1+2=3;2+3=5;#5$", 2, 1, True),
        ("1+2=3;3+3=6;6+4=0;0+5=5;#6$", 4, 4, False),
        ("1+2=3;3+3;#5$", 1, 1, False),
        ("1+2=3;======3+3=6;#5$", 1, 1, False),
        ("1+2=3;" * 18, 18, 1, False),
    ],
)
def test_a_judge_of_steps_reads_them_and_the_answer_stands_after_the_last(
    answer, steps, right, verified
):
    world = Redundant()
    batch = pack([symbols("1+2+3+4+5=")], [symbols(answer)])
    score, ends, there = world.read(batch)
    assert (int(there.sum()), int(score.sum())) == (steps, right)
    assert answer[int(ends[steps - 1])] == ";"
    assert bool(world.verify(batch)) == verified


def test_some_solutions_that_are_taught_have_steps_that_add_nothing_and_there_is_room_for_more():
    world = Redundant()
    batch = world.corpus(2_000, torch.Generator().manual_seed(0))
    steps = world.read(batch)[2].sum(1).float()
    assert float((steps > 4).float().mean()) == pytest.approx(0.3, abs=0.05)
    assert steps.min() == 4 and steps.max() == 7
    # What three times as many steps need, the claim of hacking can hold.
    assert world.steps > 3 * float(steps.mean())
    assert 0.1 < float(world.verify(batch).float().mean()) < 0.5


def test_a_measurement_that_fell_by_chance_is_no_step_back():
    curve = {"proxy": np.array([0.0, 0.5, 0.48, 0.3, 0.6])}
    assert module.kept_up(curve) == {"kept up": 0.75}


def made_up(shift):
    """Numbers that speak for every claim of an interval, or against it."""
    x = 0.1 * NOISE
    one = np.ones(8)
    finals = {
        module.PPO: {"end": one + 2 * x * abs(shift) + (20 * x if shift > 0 else 0)},
        module.SUPERHF: {"end": one + (20 * x if shift < 0 else 0)},
        module.DNO: {"kept up": 0.9 + one * shift, "end": 0.3 + one * shift},
        module.PPO_SHIFTED: {"peak": one},
        module.P3O: {},
        module.P3O_SHIFTED: {},
    }
    finals[module.PPO].update({"peak": one + x + shift, "proxy_end": one})
    finals[module.SUPERHF]["proxy_end"] = 0.9 * one + x + shift
    for label in module.SHAPES:
        finals[label] = {"right": 0.5 + x, "growth": 1 + 0.2 * one + x - shift}
    finals[module.OUTCOME]["right"] = finals[module.SUM]["right"] + x + shift
    for label in (module.CLIP, module.DELTA, module.BOTH):
        finals[label]["right"] = finals[module.OUTCOME]["right"] - 0.02 + x + shift
    finals[module.SUM]["growth"] = 3 + x + shift
    kl = np.tile(np.linspace(0, 10, 11), (8, 1))
    curves = {label: {"kl": kl, "gold": kl} for label in (module.PPO, module.PPO_SHIFTED)}
    curves[module.P3O] = {"kl": kl, "gold": kl + x[:, None] + shift}
    changed = 0.0 if shift > 0 else 1e-3
    curves[module.P3O_SHIFTED] = {"kl": kl, "gold": curves[module.P3O]["gold"] + changed}
    arms = [
        ArmResult(label, "", "", "", list(range(8)), curves.get(label, {}), final)
        for label, final in finals.items()
    ]
    return Results("x", "", "", arms, "", "")


@pytest.mark.parametrize(
    ("shift", "outcome"), [(0.15, "holds"), (-0.15, "fails"), (0.0, "inconclusive")]
)
def test_every_claim_can_come_out_each_way(shift, outcome):
    found = {c.sentence: c.check(made_up(shift)).outcome for c in module.EXPERIMENT.claims}
    exact = found.pop("P3O does not see what all answers are paid")
    assert exact == ("holds" if shift > 0 else "fails")
    # In every seed or in half of them at most.
    for name in ("DNO does not go back", "DNO raises gold"):
        assert found.pop(name) == ("holds" if shift > 0 else "fails")
    found.pop("SuperHF overdoes it less")  # see below
    assert set(found.values()) == {outcome}


@pytest.mark.parametrize(("proxy", "outcome"), [(3.0, "holds"), (1.0, "fails")])
def test_a_gap_of_proxy_and_gold_can_be_less_or_not(proxy, outcome):
    results = made_up(0.0)
    results[module.PPO].final["end"] = np.ones(8)
    results[module.SUPERHF].final.update({"end": np.ones(8), "proxy_end": 2 + NOISE})
    results[module.PPO].final["proxy_end"] = np.full(8, proxy)
    assert module.gap_is_less(results).outcome == outcome


def test_three_of_four_levels_are_not_two():
    results = made_up(0.0)
    kl = results[module.PPO].curves["kl"]
    for levels, outcome in (((2, 4, 6), "holds"), ((2, 4), "fails")):
        gain = np.isin(kl, levels) - 0.5
        results[module.P3O].curves["gold"] = kl + gain
        assert module.frontier_is_above(results).outcome == outcome


@pytest.mark.slow
def test_every_kind_of_arm_runs_and_logs(tmp_path):
    experiment = module.EXPERIMENT
    for i, arm in enumerate(experiment.grid):
        folder = tmp_path / experiment.name / arm.slug / "seed-0"
        run_job(Job(experiment.name, i, 0, Budget(4, 0, 16, 1), folder))
        final = json.loads((folder / "result.json").read_text())["final"]
        assert np.isfinite(list(final.values())).all()
        assert (folder / "metrics.jsonl").read_text().count("\n") >= 1
