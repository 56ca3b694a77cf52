"""The check of a judge: its numbers against scikit-learn's, its verdicts, its command."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from rewardzoo.llm import TableJudge, shipped_messages
from rewardzoo.llm.check import (
    area_under_curve,
    assess,
    balanced_accuracy,
    precision_recall_f1,
)
from rewardzoo.llm.commands import app
from rewardzoo.metrics.statistics import wilson

RUN = CliRunner()


def test_measures_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, called = rng.random(50) < 0.3, rng.random(50) < 0.4
        scores = rng.integers(0, 8, 50) / 8  # with ties
        want = metrics.precision_recall_fscore_support(truth, called, average="binary")[:3]
        assert precision_recall_f1(truth, called) == pytest.approx(want)
        assert balanced_accuracy(truth, called)[0] == pytest.approx(
            metrics.balanced_accuracy_score(truth, called)
        )
        assert area_under_curve(truth, scores) == pytest.approx(
            metrics.roc_auc_score(truth, scores)
        )


def test_nothing_called_is_zero_and_not_nan():
    assert precision_recall_f1([True, False], [False, False]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="one kind only"):
        balanced_accuracy([True, True], [True, False])


def test_intervals_cover_their_share():
    rng = np.random.default_rng(1)
    covered = [0, 0]
    for _ in range(400):
        truth = np.arange(60) < 20
        called = np.where(truth, rng.random(60) < 0.9, rng.random(60) < 0.2)
        _, low, high = balanced_accuracy(truth, called)
        covered[0] += low <= 0.85 <= high
        low, high = wilson(int(called[:20].sum()), 20)
        covered[1] += low <= 0.9 <= high
    # .95 nominal; 5 sigma of 400 draws is .054
    assert min(covered) / 400 > 0.95 - 0.06


def labelled(errors):
    """The shipped messages, of which every ``errors``-th is judged wrongly."""
    labels = shipped_messages()
    return {m: 1 - v if i % errors == 0 else v for i, (m, v) in enumerate(labels.items())}


def test_the_verdict_is_plain():
    labels = shipped_messages()
    assert assess(TableJudge(labels), labels).verdict.startswith("good enough")
    assert "better than chance" in assess(TableJudge(labelled(3)), labels).verdict
    assert "includes chance" in assess(TableJudge(dict.fromkeys(labels, 1.0)), labels).verdict
    assert assess(TableJudge(labelled(7)), labels).verdict.startswith("undecided")
    some = dict(list(labels.items())[:50])
    quality = assess(TableJudge(some), labels)  # the rest has no verdict: not helpful
    assert quality.answered == 50 and quality.n == len(labels) and quality.recall < 0.5


def test_the_command_says_it_all_and_exits_with_one_where_it_will_not_do(tmp_path):
    result = RUN.invoke(app, ["check", "--annotator", "rules"])
    assert result.exit_code == 1
    for word in ("messages/s", "AUC", "balanced accuracy", "precision", "not good enough"):
        assert word in result.output
    path = tmp_path / "labels.jsonl"
    path.write_text('{"message": "a", "label": 1}\n{"message": "b", "label": 0}\n' * 1)
    result = RUN.invoke(app, ["check", "--annotator", str(path), "--messages", str(path)])
    assert "undecided" in result.output  # two messages decide nothing


def test_the_command_measures_a_server(faulty):
    _, url = faulty("yes")
    result = RUN.invoke(app, ["check", "--endpoint", url, "--limit", "10"])
    assert result.exit_code == 1 and "model              faulty" in result.output
    assert "says helpful       100%" in result.output


def test_the_command_names_a_server_that_is_away():
    result = RUN.invoke(app, ["check", "--endpoint", "http://127.0.0.1:9/v1", "--timeout", "1"])
    assert isinstance(result.exception, ValueError) and "endpoint=" in str(result.exception)
