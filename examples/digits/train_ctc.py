"""Trains a small wav2vec 2.0 of connected digits from scratch, in half an hour on two CPU cores.

    python train_ctc.py --speech DIR --out wav2vec2 --minutes 28

    loss = CTC(letters) / letters + w * CE(frames)

`frames`: which half of which digit, or silence, each encoder output covers. A
linear head reads it and is thrown away. The architecture is that of the
published base model, only narrow: group norm in the first convolution, layer
norms behind the residual additions, one frame for 320 samples.
"""

import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from batches import prefetched
from ctc_batches import CtcBatch, ctc_batches
from fitting import Task, finish, frame_loss, list_paths, parse, train
from greedy_wer import scored
from joining import RATE, WORDS
from mixing import load_sources
from recipe import Settings
from torch import nn
from torch.nn.functional import ctc_loss, log_softmax
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    set_seed,
)

# CTC needs longer than a decoder to say its first letters, and strings of three are the quicker school.
SETTINGS = replace(Settings(), minutes=28.0, short_steps=400, eval_every=800)
BLANK, UNKNOWN, BETWEEN = "<pad>", "<unk>", "|"


def make_processor() -> Wav2Vec2Processor:
    """The letters of the ten digits, and waveforms of zero mean and unit variance."""
    symbols = [BLANK, UNKNOWN, BETWEEN, *sorted(set("".join(WORDS)))]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.json"
        vocabulary.write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}))
        tokenizer = Wav2Vec2CTCTokenizer(
            str(vocabulary), pad_token=BLANK, unk_token=UNKNOWN, word_delimiter_token=BETWEEN,
            bos_token=None, eos_token=None,
        )  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=False)
    return Wav2Vec2Processor(extractor, tokenizer)


def save_processor(processor: Wav2Vec2Processor, folder: Path) -> None:
    """Everything but the weights, with the extractor's own file for older readers too."""
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)


def build_model(processor: Wav2Vec2Processor) -> Wav2Vec2ForCTC:
    """2.7 million parameters; transformers itself He-initialises the convolutions.

    Dropout only where it is narrow: in the feed-forward's middle it took a quarter of a step.
    """
    config = Wav2Vec2Config(
        vocab_size=len(processor.tokenizer), pad_token_id=processor.tokenizer.pad_token_id,
        bos_token_id=None, eos_token_id=None,
        conv_dim=(96,) * 7, feat_extract_norm="group", do_stable_layer_norm=False,
        hidden_size=192, num_hidden_layers=5, num_attention_heads=6, intermediate_size=768,
        num_conv_pos_embeddings=64, num_conv_pos_embedding_groups=8,
        initializer_range=0.05, hidden_dropout=0.05, layerdrop=0.0,
        activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
        mask_time_prob=0.05, mask_time_length=5, mask_time_min_masks=2,  # two runs of 100 ms
        ctc_loss_reduction="mean", ctc_zero_infinity=True,
    )  # fmt: skip
    return Wav2Vec2ForCTC(config)


def losses(model: Wav2Vec2ForCTC, head: nn.Linear, batch: CtcBatch) -> tuple[torch.Tensor, torch.Tensor, float]:
    """CTC loss of a letter, frame loss, and the share of frames classified correctly."""
    hidden = model.wav2vec2(batch.waveforms).last_hidden_state
    scores = log_softmax(model.lm_head(hidden).float(), dim=-1).transpose(0, 1)
    letters = ctc_loss(
        scores,
        batch.targets,
        torch.full_like(batch.lengths, len(scores)),
        batch.lengths,
        blank=model.config.pad_token_id,
        zero_infinity=True,  # a hurried "three" can have more letters than frames
    )
    return letters, *frame_loss(head, hidden, batch.frames)


@torch.inference_mode()
def transcribe(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, audio: list[Path]) -> list[str]:
    """Greedy transcripts, every recording alone and unpadded."""
    texts = []
    for path in audio:
        samples, rate = soundfile.read(path, dtype="float32")
        inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
        texts.append(processor.tokenizer.decode(model(**inputs).logits[0].argmax(-1)))
    return texts


def word_error_rate(model: Wav2Vec2ForCTC, path: Path, processor: Wav2Vec2Processor) -> dict[str, float]:
    """Percent of errors, and how many reference words it stands on."""
    return scored(model, partial(transcribe, model, processor), path, batch=1)


def main() -> None:
    args, settings = parse(__doc__.splitlines()[0], SETTINGS, "wav2vec2")
    torch.set_num_threads(args.threads)
    set_seed(settings.seed)  # the time masks are NumPy's
    processor = make_processor()
    if args.init:
        model = Wav2Vec2ForCTC.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = build_model(processor)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters", flush=True)
    watched, final = list_paths(args)
    sources = load_sources(args.speech, args.sample, np.random.default_rng(settings.seed))
    task = Task(losses, partial(word_error_rate, processor=processor), partial(save_processor, processor))
    record = train(model, task, prefetched(ctc_batches(sources, processor, settings)), settings, watched, args.out)
    finish(model, task, final, args.out, record)


if __name__ == "__main__":
    main()
