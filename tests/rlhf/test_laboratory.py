"""The laboratory, reward models on it, and trainers that go on as if never stopped."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys

import pytest
import torch

from rewardzoo import Transition
from rewardzoo.rewards import Clip
from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.denoising import preference_strength
from rewardzoo.rlhf.ensembles import Ensemble
from rewardzoo.rlhf.evaluation import accuracy, auroc
from rewardzoo.rlhf.iterative import SuperHF
from rewardzoo.rlhf.laboratory import Laboratory, LaboratoryConfig, fitted
from rewardzoo.rlhf.offline import OfflineTrainer
from rewardzoo.rlhf.online import OnlineConfig, OnlineTrainer
from rewardzoo.rlhf.reward_models import (
    RewardModel,
    SequenceReward,
    margins,
    sequences_of,
    train_reward_model,
)
from rewardzoo.rlhf.selecting import best_of_n
from rewardzoo.rlhf.sequences import Sequences, pack, sequence_logps, token_logps
from rewardzoo.rlhf.world import BOS, EOS, Chain, Characters, Formula

CONFIG = LaboratoryConfig(width=32, layers=1, sft_steps=100, n_pairs=500)


@pytest.fixture(scope="module")
def lab():
    return Laboratory(0, CONFIG)


def test_the_base_policy_learns_the_chain(lab):
    corpus = lab.language.corpus(2000, torch.Generator().manual_seed(9))
    with torch.no_grad():
        nll = -token_logps(lab.policy, corpus).sum() / corpus.lengths.sum()
    entropy = lab.language.entropy(corpus)
    uniform = torch.log(torch.tensor(32.0))
    assert 0 <= nll - entropy < 0.5 * (uniform - entropy)


@pytest.mark.slow
def test_a_base_policy_of_the_laboratorys_size_is_within_three_hundredths_of_the_chain():
    """300 steps: the 200 of the default leave .035."""
    size, chain = DecoderConfig(32, 20, 64, 2), Chain(32, 4, 16, 0)
    policy = fitted(Decoder(size, 0), chain.corpus, 300, torch.Generator().manual_seed(1100))
    corpus = chain.corpus(8_000, torch.Generator().manual_seed(9))
    with torch.no_grad():
        nll = -token_logps(policy, corpus).sum() / corpus.lengths.sum()
    assert 0 < nll - chain.entropy(corpus) < 0.03


def test_the_chain_begins_uniformly_ends_with_seven_in_a_hundred_and_has_ten_tokens():
    chain, n = Chain(32, 4, 16, 5), 20_000
    torch.testing.assert_close(chain.next.sum(1), torch.ones(32))
    assert not chain.next[:, BOS].any() and (chain.next[:, EOS] == 0.07).all()
    corpus = chain.corpus(n, torch.Generator().manual_seed(0))
    share = torch.bincount(corpus.prompts.flatten(), minlength=32) / (4 * n)
    assert not share[:2].any()
    assert (share[2:] - 1 / 30).abs().max() < 5 * (1 / 30 / (4 * n)) ** 0.5
    mean = sum(0.93**t for t in range(16))  # a token is there unless one before it was the end
    lengths = corpus.lengths.float()
    assert mean == pytest.approx(9.8, abs=0.05)
    assert abs(float(lengths.mean()) - mean) < 5 * float(lengths.std()) / n**0.5
    said = corpus.completions[corpus.completion_mask]
    assert (said != BOS).all() and (said[said != EOS] >= 2).all()


def test_a_world_is_a_language_and_a_gold_and_the_seed_all_that_is_drawn(tmp_path):
    config = LaboratoryConfig(width=16, layers=1, sft_steps=2, n_pairs=20)
    whole, other = Laboratory(3, config, tmp_path), Laboratory(4, config, tmp_path, world=3)
    assert torch.equal(whole.language.next, other.language.next)
    assert torch.equal(whole.gold.raw.w, other.gold.raw.w)
    first, second = (lab.policy.state_dict().values() for lab in (whole, other))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(whole.pairs(20, 0.0)[0].chosen.ids, other.pairs(20, 0.0)[0].chosen.ids)
    alone = Laboratory(4, config, tmp_path)  # of the same seed and folder, in another world
    assert not torch.equal(alone.gold.raw.w, other.gold.raw.w)
    first, second = (lab.policy.state_dict().values() for lab in (alone, other))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gold_of_a_hand_computed_response(lab):
    gold = copy.deepcopy(lab.gold.raw)
    gold.w = torch.arange(32.0) - 10
    batch = pack([[2, 2, 3, 4]], [[12, 12, 2, EOS]])
    bend = CONFIG.bend
    expected = 2 * (2 - 2 * bend) - 8 + 1 + 0.5 * (gold.bigrams[12, 12] + gold.bigrams[12, 2])
    assert float(gold(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_gold_minds_length_beyond_eight_and_pays_no_repeated_match():
    """Of a human without taste: what is left is the match with the prompt, and the length."""
    gold = Formula(32, 0.12, 0)
    assert float(gold.w.std()) == pytest.approx(1, abs=5 / 64**0.5)
    assert float(gold.bigrams.std()) == pytest.approx(0.7, abs=5 * 0.7 / 2048**0.5)
    gold.w, gold.bigrams = torch.zeros(32), torch.zeros(32, 32)
    prompt = [2, 2, 3, 4]
    answers = [[9] * 8, [9] * 8 + [EOS], [9] * 11, [9] * 15 + [EOS], [2, 3, 2, 3, 2]]
    expected = [0.0, 0.0, -0.02 * 9, -0.02 * 49, 2 + 1]
    found = [float(gold(pack([prompt], [answer]))) for answer in answers]
    assert found == pytest.approx(expected, abs=1e-6)


def test_labels_may_favour_length_where_gold_does_not():
    small = {"width": 16, "layers": 1, "sft_steps": 1}
    plain, biased = (Laboratory(3, LaboratoryConfig(**small, length_bias=x)) for x in (0.0, 1e3))
    assert torch.equal(plain.gold(plain.base), biased.gold(biased.base))
    pairs, _ = biased.pairs(500, 0.0)
    longer = pairs.chosen.lengths - pairs.rejected.lengths
    assert (longer >= 0).all() and longer.float().mean() > 1
    fair, _ = plain.pairs(500, 0.0)
    assert ((fair.chosen.lengths - fair.rejected.lengths) < 0).any()


def test_a_policy_is_measured_on_its_own_samples_in_nats_a_sequence(lab):
    policy = copy.deepcopy(lab.policy)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    found = lab.evaluate(policy, count_token, 2_000)
    batch = lab.sample(policy, 2_000, stream=5)
    assert found["gold"] == pytest.approx(float(lab.gold(batch).mean()))
    assert found["proxy"] == pytest.approx(float(count_token(batch).mean()))
    assert found["length"] == pytest.approx(float(batch.lengths.float().mean()))
    with torch.no_grad():
        logp = sequence_logps(policy, batch)
        ratio = logp - sequence_logps(lab.policy, batch)
    assert found["kl"] > 0.3
    assert abs(found["kl"] - ratio.mean()) < 5 * ratio.std() / 2_000**0.5
    nats = -logp.sum() / batch.lengths.sum()  # a token; entropy is what is expected of it
    assert found["entropy"] == pytest.approx(float(nats), rel=0.05)
    base = lab.evaluate(lab.policy, lab.gold, 2_000)
    assert base["kl"] == pytest.approx(0, abs=1e-6) and base["proxy"] == base["gold"]
    assert abs(base["gold"]) < 5 / 2_000**0.5


def test_gold_is_standardised_on_base_samples_and_knows_no_padding(lab):
    gold = lab.gold(lab.base)
    assert abs(gold.mean()) < 1e-5 and abs(gold.std() - 1) < 1e-5
    ids = lab.base.ids.clone()
    ids[:, 4:][~lab.base.completion_mask] = 7
    torch.testing.assert_close(lab.gold(lab.base._replace(ids=ids)), gold)


def test_pairs_are_in_the_order_of_gold_unless_flipped(lab):
    pairs, flipped = lab.pairs(1000, 0.25)
    gap = lab.gold(pairs.chosen) - lab.gold(pairs.rejected)
    tie = gap == 0  # both responses are the same
    assert torch.equal(gap[~tie] > 0, ~flipped[~tie]) and tie.float().mean() < 0.05
    assert abs(int(flipped.sum()) - 250) < 5 * (1000 * 0.25 * 0.75) ** 0.5
    assert torch.equal(pairs.chosen.prompts, pairs.rejected.prompts)


def test_a_network_stands_for_the_human_where_the_paper_has_one(tmp_path):
    config = LaboratoryConfig(width=16, layers=1, sft_steps=50, n_pairs=50, gold="network")
    lab = Laboratory(0, config, tmp_path)
    assert lab.gold.raw.__self__.backbone.width == 64
    formula = Laboratory(0, dataclasses.replace(config, gold="formula"), tmp_path).gold
    both = torch.stack([lab.gold(lab.base), formula(lab.base)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.7  # on the language
    repeated = pack([[2, 2, 2, 2]] * 30, [[v] * 16 for v in range(2, 32)])
    apart = (lab.gold(repeated) - formula(repeated)).abs().mean()
    assert float(apart) > 3 * float((both[0] - both[1]).abs().mean())  # and off it
    again = Laboratory(0, config, tmp_path)  # from its file
    assert torch.equal(again.gold(repeated), lab.gold(repeated))
    other = Laboratory(1, config, tmp_path, world=0)  # the human is the world's
    assert torch.equal(other.gold.raw(repeated), lab.gold.raw(repeated))


def test_any_function_stands_for_the_human(tmp_path):
    config = LaboratoryConfig(width=16, layers=1, sft_steps=2, n_pairs=50)
    lab = Laboratory(0, config, tmp_path, gold=lambda batch: batch.lengths.float())
    pairs, _ = lab.pairs(100, 0.0)
    assert (pairs.chosen.lengths >= pairs.rejected.lengths).all()
    lab.reward_model()
    assert not list(tmp_path.glob("rm-*"))  # it would be taken for the configured human's
    with pytest.raises(ValueError, match="expected finite scores that differ"):
        Laboratory(0, config, tmp_path, gold=lambda batch: torch.zeros(len(batch.ids)))
    with pytest.raises(ValueError, match="gold='oracle'"):
        LaboratoryConfig(gold="oracle")


def test_a_text_is_a_language(tmp_path):
    file = tmp_path / "rhyme.txt"
    file.write_text("ding dong bell, pussy's in the well\nwho put her in?\nno\n" * 3)
    language = Characters(file, 4, 6)
    corpus = language.corpus(500, torch.Generator().manual_seed(0))
    found = set()
    for ids, mask in zip(corpus.ids.tolist(), corpus.completion_mask.tolist(), strict=True):
        count = 4 + sum(mask)
        assert EOS not in ids[: count - 1] and (count == 10 or ids[count - 1] == EOS)
        assert language.decode(ids[:count]) in file.read_text()
        found.add(language.decode(ids[:4]))
    assert {"ding", "who ", "r in"} <= found and "no" not in {x[:2] for x in found}
    config = LaboratoryConfig(str(file), width=32, layers=1, sft_steps=100, n_pairs=50)
    lab = Laboratory(0, config, tmp_path)
    assert lab.config.vocab_size == 2 + len(set(file.read_text()) - {"\n"})
    with torch.no_grad():
        nll = -token_logps(lab.policy, corpus).sum() / corpus.lengths.sum()
    assert nll < 0.5  # of ln 20 = 3
    assert lab.gold(lab.base).std() == pytest.approx(1.0, abs=1e-5)
    before = len(list(tmp_path.glob("sft-*")))
    file.write_text(file.read_text()[::-1])  # another text under the same name
    Laboratory(0, config, tmp_path)
    assert len(list(tmp_path.glob("sft-*"))) == before + 1
    with pytest.raises(ValueError, match="lower prompt_length"):
        Characters(file, 40, 6)


@pytest.fixture(scope="module")
def models(lab):
    clean, _ = lab.pairs(1500, 0.0)
    found = [train_reward_model(clean, lab.policy, seed=i) for i in range(3)]
    for i, model in enumerate(found):
        model.fit_normaliser(lab.base)
        model.value.weight.data *= 1 + i  # another scale, which standardising must undo
        model.fit_normaliser(lab.base)
    return found


def test_a_reward_model_beats_chance_on_fresh_clean_pairs(lab, models):
    fresh, _ = lab.pairs(1000, 0.0, stream=11)
    assert accuracy(margins(models[0], fresh)) > 0.5 + 5 * 0.5 / 1000**0.5


def test_scores_do_not_depend_on_padding(lab):
    model = RewardModel(lab.policy)
    prompts, completions = [[2, 3], [4, 5, 6, 7]], [[5, 6, 1], [8, 1]]
    with torch.no_grad():
        together = model(pack(prompts, completions))
        alone = [model(pack([x], [y])) for x, y in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_an_ensemble_is_its_members_standardised(lab, models):
    batch = lab.base.rows(torch.arange(200))
    with torch.no_grad():
        each = torch.stack([model(batch) for model in models])
        ensemble = Ensemble(models, "mean")
        for scores in (ensemble.scores, ensemble.mapped, ensemble.in_turn):
            torch.testing.assert_close(scores(batch), each, atol=1e-5, rtol=0)
        worst = Ensemble(models, "wco")(batch)
        assert (worst <= each.min(0).values + 1e-5).all()
        mean = Ensemble(models, "mean")(batch)
        torch.testing.assert_close(Ensemble(models, "uwo", coef=0.0)(batch), mean)
        uwo = Ensemble(models, "uwo", coef=0.5)(batch)
        torch.testing.assert_close(uwo, mean - 0.5 * each.var(0), atol=1e-5, rtol=0)
        shifted = copy.deepcopy(models)
        with torch.no_grad():
            for model in shifted:
                model.value.weight.mul_(7.0)
                model.fit_normaliser(lab.base)
        torch.testing.assert_close(Ensemble(shifted, "wco")(batch), worst, atol=1e-4, rtol=0)
    other = RewardModel(lab.policy, 9)
    other.fit_normaliser(lab.base)
    more = Ensemble([*models, other], "wco")
    with torch.no_grad():
        assert (more(batch) <= worst + 1e-5).all()


def test_scores_of_separable_data_grow_without_l2_only(lab):
    pairs, _ = lab.pairs(16, 0.0)
    size = {}
    for l2 in (0.0, 1.0):
        for epochs in (20, 60):
            model = train_reward_model(
                pairs, lab.policy, epochs=epochs, score_l2=l2, learning_rate=3e-3
            )
            size[l2, epochs] = float(margins(model, pairs).mean())
    assert size[0.0, 60] > 1.2 * size[0.0, 20]
    assert size[1.0, 60] < 1.0 < size[0.0, 60]


@pytest.mark.slow
def test_cross_fitted_margins_find_flipped_labels(lab):
    pairs, flipped = lab.pairs(2000, 0.25)
    mean, _ = preference_strength(pairs, lab.policy, models=5, folds=5)
    # Above chance by 5 standard errors; how far is the experiment's question.
    assert auroc(-mean, flipped) > 0.5 + 5 * 0.5 / (500**0.5)


def test_a_reward_model_composes_as_a_reward_function_and_serves_trl(lab, models):
    fn = Clip(SequenceReward(models[0], EOS), -0.5, 0.5)
    prompts, completions = lab.base.prompts[:32], lab.base.completions[:32]
    yes = torch.ones(32, dtype=torch.bool)
    transition = Transition(
        obs=prompts,
        action=completions,
        next_obs=prompts,
        reward=torch.zeros(32),
        terminated=yes,
        truncated=~yes,
        valid=yes,
        episode_step=torch.zeros(32, dtype=torch.int64),
    )
    with torch.no_grad():
        direct = models[0](lab.base.rows(torch.arange(32))).clamp(-0.5, 0.5)
    torch.testing.assert_close(fn(transition), direct, atol=1e-5, rtol=0)

    from rewardzoo.rlhf.trl import as_reward_function

    words = as_reward_function(fn, lambda text: [int(w) for w in text.split()], EOS)
    ended = (completions == EOS).any(1).nonzero().squeeze(1)[:4]
    texts = [" ".join(map(str, x.tolist())) for x in prompts[ended]]
    batch = sequences_of(prompts[ended], completions[ended], EOS)
    answers = [
        " ".join(str(t) for t in row[mask].tolist() if t != EOS)
        for row, mask in zip(batch.completions, batch.completion_mask, strict=True)
    ]
    got = torch.tensor(words(texts, answers))
    torch.testing.assert_close(got, direct[ended], atol=1e-5, rtol=0)


def test_best_of_n_raises_the_proxy(lab, models):
    prompts = lab.prompts(64, 20)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        best = models[0](best_of_n(lab.policy, prompts, models[0], 16, 16, g)).mean()
    assert best > 1.0  # the expected maximum of 16 standard normals is 1.77


# ------------------------------------------------------------------------------------ trainers


def online(lab, reward, policy=None, **config):
    policy = policy or copy.deepcopy(lab.policy)
    given = {"prompts": 8, "learning_rate": 1e-3, **config}
    return OnlineTrainer(policy, lab.policy, reward, lab.language.prompts, OnlineConfig(**given))


def count_token(batch: Sequences) -> torch.Tensor:
    """How often token 5 appears: a reward whose optimum is known."""
    return ((batch.completions == 5) & batch.completion_mask).sum(1).float()


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "ppo", "p3o"])
def test_every_algorithm_raises_a_programmatic_reward(lab, algorithm):
    k = 2 if algorithm == "p3o" else 4
    trainer = online(
        lab, count_token, algorithm=algorithm, k=k, prompts=64 // k, learning_rate=3e-3
    )
    before = float(count_token(lab.base).mean())
    metrics = trainer.train(25)
    assert metrics["rollout/reward"] > before + 2


def test_the_first_pass_over_a_rollout_clips_nothing_and_later_ones_do(lab):
    clipped = [
        online(lab, count_token, epochs=n, learning_rate=0.03).train(1)["train/clip_fraction"]
        for n in (1, 4)
    ]
    assert clipped[0] == 0 < clipped[1]


def test_a_constant_reward_moves_nothing(lab):
    trainer = online(lab, lambda batch: torch.ones(len(batch.ids)))
    trainer.train(2)
    for p, q in zip(trainer.policy.parameters(), lab.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_reward_that_is_no_number_is_named_by_its_row(lab):
    def broken(batch):
        r = torch.zeros(len(batch.ids))
        r[3] = torch.nan
        return r

    with pytest.raises(ValueError, match="nan in row 3"):
        online(lab, broken).train(1)


def test_kl_holds_the_policy_back(lab):
    kl = [
        online(lab, count_token, kl=x, learning_rate=3e-3, prompts=16).train(20)["rollout/kl_k1"]
        for x in (0.0, 1.0)
    ]
    assert kl[1] < 0.5 * kl[0]


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_an_online_trainer_loaded_goes_on_bit_for_bit(lab, tmp_path, algorithm):
    whole = online(lab, count_token, algorithm=algorithm)
    whole.train(4)
    part = online(lab, count_token, algorithm=algorithm)
    part.train(2)
    part.save(tmp_path / "x.pt")
    rest = online(lab, count_token, algorithm=algorithm)
    rest.load(tmp_path / "x.pt")
    rest.train(2)
    for p, q in zip(rest.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_an_offline_trainer_loaded_goes_on_bit_for_bit(lab, tmp_path):
    pairs, _ = lab.pairs(128, 0.0)

    def trainer():
        return OfflineTrainer(copy.deepcopy(lab.policy), lab.policy, pairs, batch_size=32)

    whole = trainer()
    numbers = whole.train(6)
    part = trainer()
    part.train(3)
    part.save(tmp_path / "x.pt")
    rest = trainer()
    rest.load(tmp_path / "x.pt")
    assert rest.train(3) == numbers
    for p, q in zip(rest.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_first_loss_of_dpo_is_log_2_and_training_separates_the_pairs(lab):
    pairs, _ = lab.pairs(256, 0.0)
    trainer = OfflineTrainer(copy.deepcopy(lab.policy), lab.policy, pairs, learning_rate=3e-3)
    assert trainer.train(1)["train/loss"] == pytest.approx(0.6931, abs=1e-4)
    assert trainer.train(40)["train/accuracy"] > 0.8
    with torch.no_grad():
        now = sequence_logps(lab.policy, pairs.chosen)
    torch.testing.assert_close(trainer.ref_chosen, now)  # the reference was never trained


def test_superhf_with_one_sample_and_no_penalty_has_no_expected_gradient(lab):
    policy = copy.deepcopy(lab.policy)
    trainer = SuperHF(policy, lab.policy, count_token, lab.language.prompts, kl=0.0)

    def norm(n):
        batch = lab.sample(policy, n, stream=30)
        policy.zero_grad()
        # A sum over tokens, divided by a constant: the mean over the batch's tokens is a ratio.
        (trainer.fit.loss(batch) * batch.completion_mask.sum() / n).backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters()]).norm()

    assert norm(4096) < 0.25 * norm(64)  # noise falls with the root of n: an eighth


def test_superhf_raises_its_reward_and_the_penalty_starts_at_0(lab):
    policy = copy.deepcopy(lab.policy)
    trainer = SuperHF(policy, None, count_token, lab.language.prompts, n=8, learning_rate=3e-3)
    batch = lab.base.rows(torch.arange(64))
    with torch.no_grad():
        held = trainer.fit.loss(batch)
        trainer.fit.kl = 0.0
        torch.testing.assert_close(trainer.fit.loss(batch), held, atol=1e-5, rtol=0)
    trainer.train(15)
    assert count_token(lab.sample(policy, 256, 21)).mean() > count_token(lab.base).mean() + 0.5


_KILLED = """
import sys, os, signal, json
from pathlib import Path
from rewardzoo.experiment import Budget
from rewardzoo.jobs import Job, run_job
import rewardzoo.experiments.rlhf_overoptimisation_ensembles
root, kill = Path(sys.argv[1]), int(sys.argv[2])
budget = Budget(total_timesteps=6, num_envs=0, eval_episodes=32, seeds=1)
folder = root / "arm" / "seed-100"
job = Job("rlhf_overoptimisation_ensembles", 1, 100, budget, folder)
def report(metrics):
    if kill and metrics["time/total_timesteps"] == kill:
        os.kill(os.getpid(), signal.SIGKILL)
run_job(job, report)
print(json.dumps(json.loads((folder / "result.json").read_text())["final"], sort_keys=True))
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    def run(folder, kill):
        command = [sys.executable, "-c", _KILLED, str(folder), str(kill)]
        return subprocess.run(command, capture_output=True, text=True)

    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    assert run(tmp_path / "cut", 3).returncode == -9
    assert run(tmp_path / "cut", 0).stdout == whole.stdout
    lines = [(tmp_path / x / "arm/seed-100/metrics.jsonl").read_text() for x in ("whole", "cut")]
    assert lines[0] == lines[1]
