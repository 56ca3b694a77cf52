"""A reward model measured on files: which pair is of which row, whatever rows are left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rewardzoo.rlhf.assessment import assess
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.folders import TextModel, decode_bytes, encode_bytes, save_reward_model
from rewardzoo.rlhf.reward_models import RewardModel
from rewardzoo.rlhf.sequences import pack
from rewardzoo.rlhf.templates import CHATML, ChatTemplate

TEMPLATE = ChatTemplate(CHATML)
EOS = 1


@pytest.fixture(scope="module")
def model():
    """A head of random weights: what it scores is of no use, but each text has its own score."""
    backbone = Decoder(DecoderConfig(258, 40, width=16, layers=1, heads=2, eos=EOS), seed=0).eval()
    found = RewardModel(backbone, seed=3)
    found.value.weight.data *= 50
    return found


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("reward")
    text = TextModel(model.backbone, encode_bytes, decode_bytes)
    save_reward_model(out, model, text, TEMPLATE)
    return out


def measured(folder, path, rows, max_length=32):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return assess(path, folder, None, None, max_length, lambda text: TEMPLATE)


def scores(model, problem, answers, longest):
    """Scores of each answer alone, cut to ``longest`` tokens as the longest of them is."""
    ids = [[*encode_bytes(answer), EOS] for answer in answers]
    prompt = encode_bytes(problem)[-max(1, longest - max(map(len, ids))) :]
    with torch.no_grad():
        return [float(model.raw(pack([prompt], [x], longest))) for x in ids]


def one_to_many(model, rows, longest=32):
    """RewardMATH's metrics by their definition, row by row."""
    ranks, first = [], []
    for row in rows:
        right, *wrong = scores(model, row["problem"], [row["chosen"], *row["rejected"]], longest)
        ranks.append(1 + sum(w >= right for w in wrong))
        first.append(wrong[0] < right)
    ranks = np.array(ranks)
    return {
        "one-to-many accuracy": np.mean(ranks == 1),
        "one-to-many mrr": np.mean(1 / ranks),
        "one-to-many one_to_one": np.mean(first),
    }


def problems(n=12):
    rng = np.random.default_rng(0)
    numbers = rng.permutation(10**5)[: 4 * n].reshape(n, 4)
    return [
        {"problem": f"p{i}=", "chosen": str(row[0]), "rejected": [str(x) for x in row[1:]]}
        for i, row in enumerate(numbers.tolist())
    ]


def part(found, like):
    return {name: found[name] for name in like}


def test_answers_of_a_problem_stay_together_where_identical_ones_are_left_out(
    model, folder, tmp_path
):
    rows = problems()
    whole = one_to_many(model, rows)
    found = measured(folder, tmp_path / "a.jsonl", rows)
    assert part(found, whole) == pytest.approx(whole) and found["pairs"] == 36
    # Three of them go, so that the number of pairs is still a multiple of three.
    for i, j in ((0, 0), (4, 1), (7, 2)):
        rows[i]["rejected"][j] = rows[i]["chosen"]
    kept = [{**row, "rejected": [x for x in row["rejected"] if x != row["chosen"]]} for row in rows]
    expected = one_to_many(model, kept)
    found = measured(folder, tmp_path / "b.jsonl", rows)
    assert part(found, expected) == pytest.approx(expected)
    assert found["pairs"] == 33 and found["dropped, identical"] == 3
    assert part(found, whole) != pytest.approx(whole)


def test_answers_that_become_the_same_by_truncation_are_left_out_too(model, folder, tmp_path):
    rows = problems()
    for i in (2, 5, 9):
        rows[i]["chosen"] += "0" * 12
        rows[i]["rejected"][1] = rows[i]["chosen"] + "1"
    found = measured(folder, tmp_path / "a.jsonl", rows, max_length=12)
    for i in (2, 5, 9):
        del rows[i]["rejected"][1]
    expected = one_to_many(model, rows, 12)
    assert part(found, expected) == pytest.approx(expected)
    assert found["pairs"] == 33 and found["dropped, identical as tokens"] == 3


def test_categories_are_of_the_pairs_that_are_left(model, folder, tmp_path):
    rows = [
        {"prompt": row["problem"], "chosen": row["chosen"], "rejected": row["rejected"][0]}
        for row in problems(16)
    ]
    for i, row in enumerate(rows):
        right, wrong = scores(model, row["prompt"], [row["chosen"], row["rejected"]], 32)
        row["subset"] = "right" if right > wrong else "wrong"
        if i in (3, 8):
            row["rejected"] = row["chosen"]
    found = measured(folder, tmp_path / "a.jsonl", rows)
    assert found["subset right"] == 1 and found["subset wrong"] == 0 and found["score"] == 0.5
    assert found["pairs"] == 14


def test_rewardbenchs_categories_are_weighed_by_its_sections(folder, tmp_path):
    names = ["math-prm", "hep-go", "hep-go", "hep-cpp", "donotanswer", "refusals-offensive"] * 4
    rows = [
        {"prompt": row["problem"], "chosen": row["chosen"], "rejected": row["rejected"][0]}
        for row in problems(len(names))
    ]
    rows = [{**row, "subset": name} for row, name in zip(rows, names, strict=True)]
    found = measured(folder, tmp_path / "a.jsonl", rows)
    code = (2 * found["subset hep-go"] + found["subset hep-cpp"]) / 3
    reasoning = (found["subset math-prm"] + code) / 2
    safety = (found["subset donotanswer"] + found["subset refusals-offensive"]) / 2
    assert found["section Reasoning"] == pytest.approx(reasoning)
    assert found["score"] == pytest.approx((reasoning + safety) / 2)
    assert len({found[f"subset {name}"] for name in names}) > 1


def test_a_score_that_is_no_number_is_refused(folder, tmp_path):
    weights = torch.load(folder / "reward.pt", weights_only=True)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights["weights"]["value.weight"].fill_(float("nan"))
    torch.save(weights, broken / "reward.pt")
    with pytest.raises(ValueError, match="margins, row 0: nan"):
        measured(broken, tmp_path / "a.jsonl", problems(2))
