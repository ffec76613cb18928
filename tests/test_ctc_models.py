"""wav2vec 2.0 and HuBERT: the same network as transformers', whose padding reaches nothing, with all of its sites."""

import json

import numpy as np
import pytest
import torch
from support.damage import change_weights
from support.tiny_ctc import LETTERS, RATE, VARIANTS, make_processor, save_checkpoint
from torch import nn
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from whisperq.data.waveforms import CtcCodec, WaveformExtractor, WaveformLoader, Waveforms
from whisperq.errors import InputError
from whisperq.models.ctc import OwnTimeNorm, frame_counts, shortest
from whisperq.models.layer_weights import layer_weights
from whisperq.models.loading import load_model, load_processor
from whisperq.models.sites import model_sites, resolve, watch
from whisperq.ptq.plan import make_plan
from whisperq.ptq.smoothing import norm_readers
from whisperq.runtime.ctc import PyTorchCtc, collapse


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    """transformers' network, and ours from its folder."""
    folder = tmp_path_factory.mktemp("ctc") / request.param
    return save_checkpoint(folder, request.param), load_model(folder, torch.float32, "cpu")


def waveforms(*lengths: int, seed: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator) for n in lengths]


@torch.inference_mode()
def test_logits_are_those_of_transformers(pair):
    stock, ours = pair
    x = torch.stack(waveforms(4000, 4000))
    torch.testing.assert_close(ours(x).logits, stock(x).logits, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_an_utterance_in_a_padded_batch_is_as_it_is_alone_in_transformers(pair):
    stock, ours = pair
    rows = waveforms(1500, 4000, 2777)
    for logits, row in zip(PyTorchCtc(ours).logits(rows), rows, strict=True):
        torch.testing.assert_close(logits, stock(row[None]).logits[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype, digits", [(torch.float16, 11), (torch.bfloat16, 8)])
@torch.inference_mode()
def test_half_precision_norms_long_audio_with_no_more_than_the_rounding_of_its_result(dtype, digits):
    """Against float64; half precision itself counts no further than 65,504, bfloat16 by ones no further than 256."""
    generator = torch.Generator().manual_seed(0)
    x = (5 + 3 * torch.randn(2, 2, 70_000, generator=generator)).to(dtype)
    frames, norm = torch.tensor([70_000, 66_001]), OwnTimeNorm(2, 2).to(dtype)
    norm.weight.copy_(torch.tensor([0.5, 2.0]))
    norm.bias.copy_(torch.tensor([0.25, -1.0]))
    norm.frames = frames
    found = norm(x)
    assert found.dtype == dtype
    for row, own, count in zip(found, x.double(), frames, strict=True):
        own = own[:, :count]
        normed = (own - own.mean(-1, keepdim=True)) / (own.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
        wanted = normed * norm.weight[:, None] + norm.bias[:, None]
        torch.testing.assert_close(row[:, :count].double(), wanted, rtol=2.0**-digits, atol=1e-4)


@torch.inference_mode()
def test_every_site_of_a_padded_batch_is_as_it_is_alone(pair):
    _, ours = pair
    sites = model_sites(ours)
    short, long = waveforms(1500, 4000)
    padded = Waveforms(nn.utils.rnn.pad_sequence([short, long], batch_first=True), (1500, 4000))
    lengths = frame_counts(ours.config, padded.counts)

    def observe(**inputs):
        seen = {}
        with watch(ours, sites, {a: lambda x, a=a: seen.update({a: x.clone()}) for a in sites}):
            ours(**inputs)
        return seen

    alone = observe(input_values=short[None])
    together = observe(input_values=padded.values, attention_mask=padded.mask())
    assert together.keys() == sites.keys()
    for address, site in sites.items():
        first, _ = site.utterances(together[address], lengths)
        wanted, even = alone[address][0], ours.config.num_conv_pos_embeddings % 2 == 0
        if address == "pos_conv" and even:  # a frame more, which the network drops
            wanted = wanted[:, :-1]
        torch.testing.assert_close(first, wanted, atol=5e-5, rtol=1e-4, msg=address)


def test_watched_attention_is_the_fused_kernels(pair):
    _, ours = pair
    x = torch.stack(waveforms(4000))
    with torch.inference_mode():
        plain = ours(x).logits
        with watch(ours, model_sites(ours), {"enc.0.scores": lambda x: None, "enc.1.probs": lambda x: None}):
            torch.testing.assert_close(ours(x).logits, plain, atol=1e-5, rtol=1e-5)


def test_what_the_linear_layers_read_can_be_replaced_without_the_residual_sum(pair):
    """Silenced, the input of attention leaves its biases; the sum goes on from the norm's own output."""
    _, ours = pair
    seen: dict[str, torch.Tensor] = {}
    watchers = {
        "enc.1.attn_norm": lambda x: torch.zeros_like(x),
        "enc.1.out_proj": lambda x: torch.zeros_like(x),
        "enc.0.mlp_sum": lambda x: seen.update(before=x.clone()),
        "enc.1.attn_sum": lambda x: seen.update(after=x.clone()),
        "enc.1.q_proj": lambda x: seen.update(query=x.clone()),
    }
    with torch.inference_mode(), watch(ours, model_sites(ours), watchers):
        ours(torch.stack(waveforms(4000)))
    layers = ours.base_model.encoder.layers
    torch.testing.assert_close(seen["query"], layers[1].attention.q_proj.bias.expand_as(seen["query"]))
    seen = {name: x.clone() for name, x in seen.items()}  # no longer of inference mode
    kept = seen["before"] if ours.config.do_stable_layer_norm else layers[0].final_layer_norm(seen["before"])
    torch.testing.assert_close(seen["after"], kept)


def test_the_plan_takes_in_every_linear_layer_and_convolution(pair):
    _, ours = pair
    planned = {w.parameter.removesuffix(".weight") for w in make_plan(ours, "gemm").weights}
    assert planned == {n for n, m in ours.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d))}
    assert len(layer_weights(ours, model_sites(ours))) == len(planned) == 3 + 1 + 1 + 2 * 6 + 1


def test_addresses(pair):
    sites = model_sites(pair[1])
    assert resolve("cnn.*", sites) == [f"cnn.{i}{end}" for i in range(3) for end in (":input", "")]
    assert resolve("cnn.-1:input", sites) == ["cnn.2:input"]
    assert resolve("ctc_head:input,enc.-1.fc1:input", sites) == ["enc.1.mlp_norm", "enc.norm"]
    assert "enc.0.gate" not in sites and "enc.0.scores" in resolve("enc.0", sites)


def test_only_norms_that_feed_no_sum_can_be_smoothed(pair):
    _, ours = pair
    found = norm_readers(ours)
    assert set(found) == ({f"enc.{i}.{n}" for i in (0, 1) for n in ("attn_norm", "mlp_norm")}
                          if ours.config.do_stable_layer_norm else set())  # fmt: skip


@pytest.mark.parametrize(
    "change, words",
    [({"add_adapter": True}, "has adapters"), ({"adapter_attn_dim": 8}, "has adapters"), ({"vocab_size": None}, "CTC")],
)
def test_what_is_not_computed_is_refused(tmp_path, change, words):
    save_checkpoint(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=words):
        load_model(tmp_path, torch.float32, "cpu")


@pytest.mark.parametrize("variant", ["wav2vec2-base", "hubert-other"])
def test_what_pretraining_alone_needs_may_be_there_or_not_and_nothing_else(variant, tmp_path):
    mask = f"{variant.split('-')[0]}.masked_spec_embed"
    x = torch.stack(waveforms(4000))
    # Which network has an embedding of masks its mask_time_prob says.
    for share, change in ((0.5, lambda t: t.pop(mask)), (0.0, lambda t: t.update({mask: torch.ones(32)}))):
        stock = save_checkpoint(tmp_path, variant, mask_time_prob=share)
        assert (mask in stock.state_dict()) == (share > 0)
        change_weights(tmp_path, change)
        with torch.inference_mode():
            found = load_model(tmp_path, torch.float32, "cpu")(x).logits
            torch.testing.assert_close(found, stock(x).logits, atol=1e-5, rtol=1e-5)
    change_weights(tmp_path, lambda t: t.update({mask: torch.ones(32), "quantizer.codevectors": torch.ones(3)}))
    with pytest.raises(InputError, match="1 unexpected keys, such as quantizer.codevectors"):
        load_model(tmp_path, torch.float32, "cpu")


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    save_checkpoint(tmp_path)
    for name in ("vocab.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="lacks a usable CTC tokenizer"):
        load_processor(tmp_path)


def test_batches_are_normalised_as_transformers_does(tmp_path):
    processor = make_processor(tmp_path)
    loader = WaveformLoader(WaveformExtractor(RATE, True, 400), None, "cpu", False, lambda counts: {})
    rows = [3 + 0.2 * w.numpy() for w in waveforms(3000, 1200)]
    extractor: Wav2Vec2FeatureExtractor = processor.feature_extractor
    wanted = extractor(rows, sampling_rate=RATE, padding=True, return_attention_mask=True, return_tensors="pt")
    found = loader.features(rows)
    assert found.counts == (3000, 1200) and torch.equal(found.mask(), wanted.attention_mask.long())
    torch.testing.assert_close(found.values, wanted.input_values, atol=1e-5, rtol=1e-4)
    assert loader.features([np.zeros(7, np.float32)]).counts == (400,), "too short for a frame"


def test_the_shortest_recording_makes_one_frame(pair):
    _, ours = pair
    count = shortest(ours.config)
    assert frame_counts(ours.config, [count, count - 1])["frames"] == (1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_decoding_is_the_tokenizers(tmp_path, seed):
    """Random frames with many repeats and blanks, some of them between equal letters."""
    tokenizer = make_processor(tmp_path).tokenizer
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.choice([0, 4, *range(5, len(LETTERS))], 40), generator.integers(1, 4, 40)).tolist()
    codec = CtcCodec(tokenizer, tokenizer.pad_token_id)
    assert codec.decode(collapse(labels, codec.blank)) == tokenizer.decode(labels)


def test_text_that_spells_a_control_token_is_text(tmp_path):
    letters = {letter: i for i, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"spadn"])}
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    codec = CtcCodec(Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json")), 0)
    assert codec.encode("<s>n</s> <pad>") == [letters[c] for c in "sns|pad"]


def test_labels_are_in_the_vocabularys_case_and_alphabet(tmp_path):
    codec = CtcCodec(make_processor(tmp_path).tokenizer, 0)
    assert codec.decode(codec.encode("  one,  twO\n")) == "ONE TWO"
    assert codec.encode("") == []
    tokens = codec.batch(["one", "", "three"], ["a", "b", "c"])
    assert tokens.lengths == (3, 0, 5) and tokens.labels.shape == (3, 5)
    assert (tokens.labels[1] == -100).all() and codec.decode(tokens.labels[2].tolist()) == "THREE"
