"""Verifiable tasks: solutions are right, every kind of mistake is found where it was made."""

from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardzoo.rlhf import process_rewards, tasks
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.sequences import Sequences
from rewardzoo.rlhf.tasks import EOS, SYMBOLS, Arithmetic, Sorting, evaluate

KINDS = [Arithmetic, Sorting]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def written(task, text):
    """One row: a prompt with its completion."""
    ids = torch.tensor([[SYMBOLS.index(c) for c in text]])
    length = ids.shape[1] - task.prompt_length
    return Sequences(ids, torch.ones(1, length, dtype=torch.bool))


def answer(task, text):
    """What Python says the answer is."""
    if isinstance(task, Arithmetic):
        return str(sum(map(int, text[:-1].split("+"))) % 10)
    return "".join(sorted(text[:-1]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 9), seed=st.integers(0, 10_000))
def test_solutions_are_right_in_every_step_and_end_with_what_python_computes(kind, n, seed):
    task = kind(n)
    batch = task.solutions(task.prompts(8, generator(seed)))
    assert task.verify(batch).all() and task.verify_steps(batch).prefix.all()
    assert batch.ids.shape[1] == task.max_length
    for row in batch.ids:
        text = task.text(row)
        prompt, completion = text[: task.prompt_length], text[task.prompt_length :]
        assert completion.split("#")[1] == answer(task, prompt) + "$"
        assert [i for i, c in enumerate(completion) if c == ";"] == task.ends.tolist()


def test_a_wrong_step_is_found_and_what_follows_from_it_is_locally_right():
    task = Arithmetic(n=4)
    steps = task.verify_steps(written(task, "4+8+3+1=4+8=2;2+3=6;6+1=7;#7$"))
    assert steps.local.tolist() == [[True, False, True]]
    assert steps.prefix.tolist() == [[True, False, False]]
    sort = Sorting(n=4)
    steps = sort.verify_steps(written(sort, "4271=24;274;1274;#1247$"))
    assert steps.local.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("4+8+3=4+8=2;2+3=5;#5$", True),
        ("4+8+3=4+8=1;2+3=5;#5$", True),  # the answer is what is asked for
        ("4+8+3=4+8=2;2+3=5;#6$", False),
        ("4+8+3=4+8=2;2+3=5;#55", False),  # does not end
        ("4+8+3=#5$", False),  # no steps
        ("4+8+3=4+8=2;2+3=5;", False),  # cut off
        ("4+8+3=4+8=2;2+3=5;#5$$", True),  # ends once: what comes after is nothing
    ],
)
def test_answers(text, right):
    task = Arithmetic(n=3)
    batch = written(task, text)
    ended = (batch.completions == EOS).cumsum(1) - (batch.completions == EOS).long() > 0
    batch = batch._replace(completion_mask=~ended)
    assert task.verify(batch).tolist() == [right]


def test_what_stands_after_the_end_is_not_read():
    task = Arithmetic(n=3)
    batch = written(task, "4+8+3=4+8=2;2+3=5;#5$")
    mask = batch.completion_mask.clone()
    mask[0, 6:] = False
    assert not task.verify(batch._replace(completion_mask=mask)).any()
    steps = task.verify_steps(batch._replace(completion_mask=mask))
    assert steps.local.tolist() == [[True, False]]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_completion_can_be_checked_and_any_changed_token_of_a_step_is_wrong(kind, data):
    task = kind(n=4)
    batch = task.solutions(task.prompts(1, generator(data.draw(st.integers(0, 99)))))
    at = data.draw(st.integers(0, int(task.ends[-1])))
    token = data.draw(st.integers(0, task.vocab_size - 1))
    ids = batch.ids.clone()
    before = int(ids[0, task.prompt_length + at])
    ids[0, task.prompt_length + at] = token
    steps = task.verify_steps(batch._replace(ids=ids))
    changed = int((task.ends < at).sum())
    assert bool(steps.local[0, changed]) == (token == before)
    assert steps.local[0, :changed].all()
    assert task.verify(batch._replace(ids=ids)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_errs_in_the_wrong_cells_alone_and_always_in_the_same_way(kind):
    always = kind(n=5, wrong_cells=0.3, wrong_prob=1.0, seed=3)
    prompts = always.prompts(500, generator())
    one, other = (always._written(prompts, generator(s)) for s in (1, 2))
    assert torch.equal(one.ids, other.ids)
    never = kind(n=5, wrong_cells=0.3, wrong_prob=0.0, seed=3)
    assert never.verify(never.corpus(500, generator())).all()
    assert always.wrong.float().mean() == pytest.approx(0.3, abs=0.5 / always.wrong.numel())


def test_where_every_cell_is_wrong_no_sum_is_right():
    task = Arithmetic(n=2, wrong_cells=1.0, wrong_prob=1.0)
    assert not task.verify(task.corpus(500, generator())).any()


def test_how_often_sums_are_wrong_is_what_was_asked_for():
    task = Arithmetic(n=2, wrong_cells=0.3, wrong_prob=0.6, seed=1)
    n = 20_000
    share = float(task.verify(task.corpus(n, generator())).float().mean())
    assert share == pytest.approx(1 - 0.3 * 0.6, abs=5 * (0.18 * 0.82 / n) ** 0.5)


def test_tasks_of_different_seeds_have_different_wrong_cells():
    a, b = Arithmetic(seed=0), Arithmetic(seed=1)
    assert not torch.equal(a.wrong, b.wrong)
    assert torch.equal(a.wrong, Arithmetic(seed=0).wrong)


def test_an_untrained_policy_is_measured_as_knowing_nothing():
    task = Arithmetic(n=3)
    size = DecoderConfig(task.vocab_size, task.max_length, 16, 1, eos=EOS)
    model = Decoder(size, seed=0).eval()
    found = evaluate(task, model, model, 16, generator(), k=4)
    assert found["pass1"] < 0.2 and found["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["pass1"] <= found["passk"] <= 1


def test_a_policy_is_measured_by_its_answers_its_steps_and_the_prompts_that_it_can_do(monkeypatch):
    """What it says is written here: samples err in wrong cells, the likeliest answer never."""
    task, k, said = Arithmetic(n=3, wrong_cells=0.5, wrong_prob=0.5), 4, []

    def written(model, prompts, new_tokens, generator=None, copies=1):
        prompts = prompts.repeat_interleave(copies, 0)
        said.append(task._written(prompts, generator))
        return said[-1]

    monkeypatch.setattr(tasks, "sample", written)
    model = Decoder(DecoderConfig(task.vocab_size, task.max_length, 16, 1, eos=EOS), seed=0).eval()
    found = evaluate(task, model, model, 200, generator(), k)
    samples, greedy = said
    right = task.verify(samples).view(200, k)
    assert 0.2 < found["pass1"] < 0.8 and len(greedy.ids) == 200
    assert found["pass1"] == pytest.approx(float(right.float().mean()))
    assert found["passk"] == pytest.approx(float(right.any(1).float().mean()))
    assert found["greedy"] == 1.0 and found["length"] == task.new_tokens
    assert found["steps"] == pytest.approx(float(task.verify_steps(samples).local.float().mean()))


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="n=1"):
        Sorting(n=1)
    with pytest.raises(ValueError, match="wrong_prob=2"):
        Arithmetic(wrong_prob=2)


@pytest.mark.parametrize("module", [tasks, process_rewards])
def test_examples_show_what_they_print(module):
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted and not found.failed
