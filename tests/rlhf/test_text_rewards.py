"""Rewards that are functions of texts."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.reward_callables import CallableReward, load_callable
from rewardzoo.rlhf.sequences import pack

from .small import EOS, online, same


def decode(ids):
    return "".join("abcdefghij"[i - 2] for i in ids)


def test_a_function_of_texts_is_a_reward_with_columns_and_without_padding():
    batch = pack([[2], [3, 4]], [[5, 6, EOS], [7]])
    seen = {}

    def reward(prompts, completions, completion_ids, answer, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, answer=answer)
        return [float(a == c) for a, c in zip(answer, completions, strict=True)]

    columns = {(2,): {"answer": "de"}, (3, 4): {"answer": "x"}}
    paid = CallableReward(reward, decode, EOS, columns)(batch)
    assert paid.tolist() == [1.0, 0.0] and paid.dtype == torch.float32
    assert seen == {
        "prompts": ["a", "bc"],
        "completions": ["de", "f"],
        "ids": [[5, 6, EOS], [7]],  # the second one was cut off
        "answer": ["de", "x"],
    }
    with pytest.raises(ValueError, match="columns: none of the prompt 'a'"):
        CallableReward(reward, decode, EOS, {(3, 4): {"answer": "x"}})(batch)


@pytest.mark.parametrize("found", [[1.0], None, 3.0, ["x", "y"], [None, 1.0]])
def test_a_function_of_texts_that_does_not_pay_every_completion_is_named(found):
    def my_reward(**columns):
        return found

    with pytest.raises(ValueError, match="reward my_reward: returned .* a list of 2"):
        CallableReward(my_reward, decode, EOS)(pack([[2], [3]], [[5], [6]]))


def test_a_policy_learns_from_a_function_of_texts_as_from_one_of_tokens():
    def letters(completions, **columns):
        return [float(text.count("d")) for text in completions]

    one, other = online(CallableReward(letters, decode, EOS)), online()
    assert one.train(3) == other.train(3) and same(one.policy, other.policy)


def test_callables_are_found_by_module_and_name(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def length(completions, **c):\n    return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    assert load_callable("my_rewards:length")(["a"]) == [1.0]
    for wrong, said in (
        ("my_rewards", "expected module:function"),
        ("my_rewards:other", "no function 'other'"),
        ("no_such_module:f", "No module named 'no_such_module'"),
    ):
        with pytest.raises(ValueError, match=said):
            load_callable(wrong)
