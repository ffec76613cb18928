"""Word error rate of a digits model over an utterance list, decoded greedily."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import soundfile
import torch
from joining import read_list
from transformers import PreTrainedModel, WhisperForConditionalGeneration, WhisperProcessor

from whisperq.data.features import log_mel


def word_errors(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, start=1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
            diagonal, row[j] = row[j], best
    return row[-1]


@torch.inference_mode()
def greedy(model: WhisperForConditionalGeneration, features: torch.Tensor, prompt: list[int]) -> torch.Tensor:
    """Features (batch, mel bins, frames) -> token ids (batch, tokens), prompt included.

    Not `generate`: an untrained model emits times at random, and `generate`
    seeks to them and decodes again, nearly without end.
    """
    encoded = model.model.encoder(features)
    tokens = torch.tensor([prompt]).expand(len(features), -1)
    end, cache = model.config.eos_token_id, None
    ended = torch.zeros(len(features), dtype=torch.bool)
    while tokens.shape[1] < model.config.max_target_positions and not ended.all():
        unread = tokens if cache is None else tokens[:, -1:]
        out = model(encoder_outputs=encoded, decoder_input_ids=unread, past_key_values=cache)
        cache = out.past_key_values
        best = out.logits[:, -1].argmax(-1).masked_fill(ended, end)
        ended |= best == end
        tokens = torch.cat([tokens, best.unsqueeze(1)], dim=1)
    return tokens


def transcribe(model: WhisperForConditionalGeneration, processor: WhisperProcessor, audio: list[Path]) -> list[str]:
    """Greedy transcripts of recordings within the window."""
    waveforms = [soundfile.read(path, dtype="float32")[0] for path in audio]
    features = log_mel(waveforms, processor.feature_extractor)
    tokens = greedy(model, features, processor.tokenizer.prefix_tokens)
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def word_error_rate(
    model: WhisperForConditionalGeneration, path: Path, processor: WhisperProcessor, batch: int = 50
) -> dict[str, float]:
    """Percent of errors, and how many reference words it stands on."""
    return scored(model, partial(transcribe, model, processor), path, batch)


def scored(
    model: PreTrainedModel, recognise: Callable[[list[Path]], list[str]], path: Path, batch: int
) -> dict[str, float]:
    """Word error rate of what `recognise` makes of a list's recordings, `batch` at a time, in evaluation mode."""
    training = model.training
    model.eval()
    entries = read_list(path)
    errors = words = 0
    for start in range(0, len(entries), batch):
        part = entries[start : start + batch]
        texts = recognise([path.parent / e["audio_filepath"] for e in part])
        for entry, text in zip(part, texts, strict=True):
            reference = entry["text"].split()
            errors += word_errors(reference, text.split())
            words += len(reference)
    model.train(training)
    return {"wer": round(100 * errors / words, 2), "errors": errors, "reference_words": words}
