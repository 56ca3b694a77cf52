"""make_reward: what may be written, and what is said about the rest."""

from __future__ import annotations

import pytest

from rewardzoo.registration import UnknownNameError
from rewardzoo.rewards import Clip, Delay, Novelty, Potential, RewardSyntaxError, Sum, make_reward


def test_a_name_alone_is_the_function_without_arguments():
    assert make_reward("objective").name == "objective"
    assert make_reward(" novelty ").buckets == Novelty().buckets


def test_sum_of_terms_with_arguments_by_position_and_by_name():
    fn = make_reward("objective + 0.1*potential(phi='optimal_value', gamma=0.99) - 2*novelty(0.5)")
    assert isinstance(fn, Sum) and fn.name == "objective + potential + novelty"
    scaled, counted = fn.parts[1:]
    assert scaled.weight == 0.1 and isinstance(scaled.inner, Potential)
    assert scaled.inner.phi == "optimal_value" and scaled.inner.gamma == 0.99
    assert counted.weight == -2 and counted.inner.resolution == 0.5


def test_reward_functions_nest_as_arguments():
    fn = make_reward("clip(delay(objective + novelty(), k=3), -1, 1)")
    assert isinstance(fn, Clip) and (fn.low, fn.high) == (-1, 1) and isinstance(fn.inner, Delay)
    assert isinstance(fn.inner.inner, Sum)


def test_numbers_are_computed():
    assert make_reward("2*(3 - 1)*objective").weight == 4
    assert make_reward("-objective").weight == -1
    assert make_reward("objective*1e-3").weight == 1e-3


def test_a_table_is_a_literal():
    assert make_reward("potential([0, 1, 2], 0.9)").phi.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "reward '': invalid syntax"),
        ("objective +", "reward 'objective \\+': invalid syntax"),
        ("3", "reward '3': this is a number"),
        ("objective + 1", "'objective \\+ 1': a number cannot be added"),
        ("objective * novelty()", "expected a number times a reward function"),
        ("objective / 2", "'objective / 2' is not allowed: expected names, calls"),
        ("objective ** 2", "is not allowed"),
        ("novelty.__class__", "'novelty.__class__' is not allowed"),
        ("__import__('os').system('true')", "is not allowed"),
        ("(lambda: objective)()", "is not allowed"),
        ("[objective][0]", "is not allowed"),
        ("clip(objective, low=__import__)", "reward function '__import__' is unknown"),
        ("clip(objective, *[1])", "is not allowed"),
        ("clip(**{'inner': 1})", "'\\*\\*' is not allowed"),
        ("clip(objective, lo=0)", "'clip' has no argument 'lo': did you mean 'low'"),
        ("clip()", "'clip': missing a required argument: 'inner'; it takes clip\\(inner"),
        ("clip(objective, 0, 1, 2)", "'clip': too many positional arguments; it takes"),
        ("clip(3)", "clip\\(3\\): Clip: expected a reward function, got 3"),
        ("clip(objective, 1, 0)", "clip\\(objective, 1, 0\\): high=0: expected a number above"),
        ("potential('x', gamma=2)", "gamma=2: expected a finite number in"),
        ("1e999*objective", "weight=inf: expected a finite number"),
        ("+'a'", "\"'a'\" is not allowed|'a'"),
        ("a" * 5000 + "(" * 5000, "reward"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_reward(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "near"), [("objectiv", "objective"), ("noveltey()", "novelty")])
def test_unknown_name_suggests_the_nearest(text, near):
    with pytest.raises(UnknownNameError, match=f"did you mean {near!r}"):
        make_reward(text)


def test_syntax_errors_are_reward_syntax_errors():
    with pytest.raises(RewardSyntaxError):
        make_reward("objective +")
