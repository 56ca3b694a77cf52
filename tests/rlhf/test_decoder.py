"""Models: cached sampling is uncached sampling, padding changes nothing, transformers agrees."""

from __future__ import annotations

import pytest
import torch

from rewardzoo.rlhf.decoder import Decoder, DecoderConfig
from rewardzoo.rlhf.sampling import sample
from rewardzoo.rlhf.sequences import pack, sequence_kl, sequence_logps, token_logps

PROMPTS = [[2, 3, 4], [5], [6, 7], [2, 2, 2, 2]]
COMPLETIONS = [[3, 1], [4, 5, 6, 1], [7], [2, 3, 1]]


def decoder():
    return Decoder(DecoderConfig(vocab_size=16, max_length=24, width=16), seed=0).eval()


def huggingface():
    transformers = pytest.importorskip("transformers")
    from rewardzoo.rlhf.huggingface import HuggingFaceModel

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        eos_token_id=1,
    )
    return HuggingFaceModel(transformers.LlamaForCausalLM(config).eval())


MODELS = {"decoder": decoder, "huggingface": huggingface}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("padded", [False, True])
def test_sampling_from_the_cache_equals_reading_all_again_token_for_token(kind, padded):
    model = MODELS[kind]()
    prompts = torch.randint(2, 16, (64, 5), generator=torch.Generator().manual_seed(1))
    mask = None
    if padded:
        mask = torch.ones(64, 5, dtype=torch.bool)
        mask[::2, :3] = False
    found = [
        sample(model, prompts, 12, torch.Generator().manual_seed(2), mask, cached=cached)
        for cached in (True, False)
    ]
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].completion_mask, found[1].completion_mask)
    greedy = [sample(model, prompts, 12, None, mask, cached=cached) for cached in (True, False)]
    assert torch.equal(greedy[0].ids, greedy[1].ids)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("padded", [False, True])
def test_several_completions_of_a_prompt_are_those_of_the_prompt_repeated(
    kind, padded, monkeypatch
):
    model = MODELS[kind]()
    prompts = torch.randint(2, 16, (8, 5), generator=torch.Generator().manual_seed(1))
    mask, masks = None, None
    if padded:
        mask = torch.ones(8, 5, dtype=torch.bool)
        mask[::2, :3] = False
        masks = mask.repeat_interleave(3, 0)
    expected = sample(
        model, prompts.repeat_interleave(3, 0), 12, torch.Generator().manual_seed(2), masks
    )
    read, start = [], type(model).start

    def watched(self, ids, *args):
        read.append(len(ids))
        return start(self, ids, *args)

    monkeypatch.setattr(type(model), "start", watched)
    for cached in (True, False):
        generator = torch.Generator().manual_seed(2)
        found = sample(model, prompts, 12, generator, mask, cached=cached, copies=3)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.completion_mask, expected.completion_mask)
        assert (found.prompt_mask is None) == (masks is None)
        assert masks is None or torch.equal(found.prompt_mask, masks)
    assert read == [8]  # each prompt once


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_scores_the_same_alone_and_padded_on_either_side(kind):
    model = MODELS[kind]()
    with torch.no_grad():
        together = sequence_logps(model, pack(PROMPTS, COMPLETIONS))
        alone = [
            sequence_logps(model, pack([x], [y])) for x, y in zip(PROMPTS, COMPLETIONS, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [*MODELS, "one layer"])
@pytest.mark.parametrize("padded", [False, True])
def test_one_column_a_row_is_read_as_from_the_whole_row_and_has_its_gradient(kind, padded):
    size = DecoderConfig(vocab_size=16, max_length=24, width=16, layers=1)
    model = Decoder(size, seed=0) if kind == "one layer" else MODELS[kind]()
    batch = pack(PROMPTS, COMPLETIONS)
    mask = batch.attention_mask if padded else None
    at = torch.tensor([6, 4, 5, 7])
    whole = model.hidden(batch.ids, mask)[torch.arange(4), at]
    alone = model.hidden_at(batch.ids, at, mask)
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)
    parameters = list(model.parameters())
    weight = torch.arange(float(whole.numel())).view_as(whole).sin()
    grads = [
        torch.autograd.grad((x * weight).sum(), parameters, allow_unused=True)
        for x in (alone, whole)
    ]
    for p, q in zip(*grads, strict=True):
        if q is not None:
            torch.testing.assert_close(p, q, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_log_probabilities_equal_those_of_transformers_with_padding_on_either_side(side):
    model = huggingface()
    with torch.no_grad():
        ours = sequence_logps(model, pack(PROMPTS, COMPLETIONS))
        longest = max(len(x) + len(y) for x, y in zip(PROMPTS, COMPLETIONS, strict=True))
        for i, (x, y) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            row, pad = x + y, [1] * (longest - len(x) - len(y))
            first = len(pad) if side == "left" else 0
            ids = torch.tensor([pad + row if side == "left" else row + pad])
            mask = torch.zeros_like(ids)
            mask[:, first : first + len(row)] = 1
            logits = model.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            ).logits.log_softmax(-1)
            at = range(first + len(x) - 1, first + len(row) - 1)
            theirs = sum(logits[0, t, ids[0, t + 1]] for t in at)
            torch.testing.assert_close(ours[i], theirs, atol=1e-4, rtol=0)


def test_sampled_frequencies_are_the_models_probabilities():
    model = decoder()
    prompts = torch.tensor([[2, 3]]).repeat(20_000, 1)
    batch = sample(model, prompts, 1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        p = model(prompts[:1])[0, -1].softmax(-1)
    share = torch.bincount(batch.completions[:, 0], minlength=16) / 20_000
    assert ((share - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_a_completion_ends_with_its_first_end_and_only_counts_up_to_it():
    batch = sample(decoder(), torch.full((256, 2), 3), 12, torch.Generator().manual_seed(0))
    for row, mask in zip(batch.completions, batch.completion_mask, strict=True):
        tokens = row[mask].tolist()
        assert 1 not in tokens[:-1]
        assert tokens[-1] == 1 or mask.all()


def test_tokens_after_the_end_have_no_gradient():
    model = decoder()
    batch = pack([[2, 3]] * 2, [[4, 1], [4, 5, 6, 1]])
    changed = batch._replace(ids=batch.ids.clone())
    changed.ids[0, -2:] = 9
    grads = []
    for each in (batch, changed):
        model.zero_grad()
        token_logps(model, each).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_kl_along_sequences_is_in_expectation_the_log_ratio():
    ref = decoder()
    policy = Decoder(ref.config, seed=1).eval()
    prompts = torch.full((20_000, 2), 3)
    batch = sample(policy, prompts, 3, torch.Generator().manual_seed(0))
    from rewardzoo.rlhf.sequences import completion_logits

    with torch.no_grad():
        kl = sequence_kl(
            completion_logits(policy, batch), completion_logits(ref, batch), batch.completion_mask
        )
        ratio = sequence_logps(policy, batch) - sequence_logps(ref, batch)
    assert abs(kl.mean() - ratio.mean()) < 5 * ratio.std() / len(ratio) ** 0.5
    assert kl.std() < ratio.std()


def test_a_saved_model_is_the_same_model_and_a_cut_off_file_says_so(tmp_path):
    model = Decoder(DecoderConfig(vocab_size=16, width=16), seed=3)
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 3, 4]])
    assert torch.equal(Decoder.from_pretrained(tmp_path)(ids), model(ids))
    file = tmp_path / "decoder.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cut off"):
        Decoder.from_pretrained(tmp_path)


def test_lora_starts_at_the_reference_and_can_be_taken_away():
    pytest.importorskip("peft")
    model = huggingface()
    batch = pack(PROMPTS, COMPLETIONS)
    before = sequence_logps(model, batch).detach()
    model.add_lora(2)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < 1000
    torch.testing.assert_close(sequence_logps(model, batch).detach(), before)
    optimizer = torch.optim.SGD(trained, lr=10.0)
    for _ in range(2):
        optimizer.zero_grad()
        sequence_logps(model, batch).mean().backward()
        optimizer.step()
    with torch.no_grad(), model.without_lora() as ref:
        torch.testing.assert_close(sequence_logps(ref, batch), before)
    assert not torch.allclose(sequence_logps(model, batch), before)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_states_from_the_cache_are_those_of_reading_the_whole_sequence(layers, padded):
    """One prompt is empty: it begins with what it would be if its padding were a token."""
    config = DecoderConfig(vocab_size=16, max_length=24, width=16, layers=layers)
    model = Decoder(config, seed=0).eval()
    ids = torch.randint(2, 16, (6, 9), generator=torch.Generator().manual_seed(1))
    mask = None
    if padded:
        mask = torch.ones(6, 9, dtype=torch.bool)
        for row, pads in enumerate((5, 3, 0, 1, 4, 2)):
            mask[row, :pads] = False
    with torch.no_grad():
        expected = model.hidden(ids, mask)
    hidden, cache = model.start(ids[:, :5], None if mask is None else mask[:, :5], 4)
    torch.testing.assert_close(hidden, expected[:, 4], atol=1e-5, rtol=0)
    for t in range(5, 9):
        torch.testing.assert_close(
            model.advance(ids[:, t], cache), expected[:, t], atol=1e-5, rtol=0
        )


def test_bad_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="width=10"):
        DecoderConfig(width=10)
    with pytest.raises(ValueError, match="max_length=24"):
        sample(decoder(), torch.zeros(1, 20, dtype=torch.int64), 10)


def test_the_reference_of_an_adapted_model_is_the_model_before_and_adapters_are_saved_alone():
    pytest.importorskip("peft")
    from rewardzoo.rlhf.huggingface import HuggingFaceModel

    model = huggingface()
    batch = pack(PROMPTS, COMPLETIONS)
    with torch.no_grad():
        before = sequence_logps(model, batch)
        assert isinstance(model.add_lora(2), HuggingFaceModel)
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
        after = sequence_logps(model, batch)
        torch.testing.assert_close(sequence_logps(model.reference(), batch), before)
        assert not torch.allclose(after, before)
        state = {k: v.clone() for k, v in model.adapters().state_dict().items()}
        assert state and all("lora" in name for name in state)
        assert not list(model.reference().parameters())
        for p in model.parameters():
            if p.requires_grad:
                p.zero_()
        model.adapters().load_state_dict(state)
        torch.testing.assert_close(sequence_logps(model, batch), after)
