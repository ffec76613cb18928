"""Makes the small processor that the digits models share.

    python make_tokenizer.py --out teacher

A byte-level Whisper tokenizer (the 256 bytes and Whisper's special tokens, no
merges), a feature extractor for a window of four seconds, and the generation
settings that belong to them. The special tokens come in Whisper's own order,
which its code relies on: every id above <|notimestamps|> is a time.
"""

import argparse
from pathlib import Path

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

WINDOW_S = 4
TIME_STEP_S = 0.02
MAX_TOKENS = 64  # seven digits spelt in bytes take 47 with prompt and end
END = "<|endoftext|>"
CONTROL = [
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
]


def byte_vocabulary() -> dict[str, int]:
    """The 256 bytes as byte-level BPE writes them, in GPT-2's order, then <|endoftext|>."""
    symbols = sorted(ByteLevel.alphabet())
    return {symbol: index for index, symbol in enumerate([*symbols, END])}


def timestamps(window_s: int) -> list[AddedToken]:
    """<|0.00|> to the window's end; not special, so that decoding may keep them."""
    count = round(window_s / TIME_STEP_S) + 1
    return [AddedToken(f"<|{i * TIME_STEP_S:.2f}|>", special=False) for i in range(count)]


def make_tokenizer(window_s: int = WINDOW_S) -> WhisperTokenizer:
    """256 bytes, nine special tokens, then the times."""
    tokenizer = WhisperTokenizer(
        vocab=byte_vocabulary(),
        merges=[],
        pad_token=END,
        extra_special_tokens=[AddedToken(token, special=True) for token in CONTROL],
        language="en",
        task="transcribe",
        model_max_length=MAX_TOKENS,
    )
    tokenizer.add_tokens(timestamps(window_s))
    return tokenizer


def make_processor(window_s: int = WINDOW_S) -> WhisperProcessor:
    """Tokenizer and feature extractor: 80 mel bins of 16 kHz audio."""
    extractor = WhisperFeatureExtractor(feature_size=80, sampling_rate=16000, chunk_length=window_s)
    return WhisperProcessor(extractor, make_tokenizer(window_s))


def make_generation_config(tokenizer: WhisperTokenizer) -> GenerationConfig:
    """Greedy, nothing suppressed, the prompt's ids named as Whisper's generate expects."""
    ids = tokenizer.convert_tokens_to_ids
    return GenerationConfig(
        decoder_start_token_id=ids("<|startoftranscript|>"),
        bos_token_id=ids(END),
        eos_token_id=ids(END),
        pad_token_id=ids(END),
        lang_to_id={"<|en|>": ids("<|en|>")},
        task_to_id={task: ids(f"<|{task}|>") for task in ("translate", "transcribe")},
        no_timestamps_token_id=ids("<|notimestamps|>"),
        prev_sot_token_id=ids("<|startofprev|>"),
        language="en",
        task="transcribe",
        is_multilingual=True,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        return_timestamps=False,
        max_initial_timestamp_index=50,
        max_length=MAX_TOKENS,
    )


def save_processor(processor: WhisperProcessor, folder: str | Path) -> None:
    """Everything but the weights, with the extractor's own file for older readers too."""
    processor.save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    make_generation_config(processor.tokenizer).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="teacher", help="the folder to write")
    args = parser.parse_args()
    processor = make_processor()
    save_processor(processor, args.out)
    print(f"{len(processor.tokenizer)} tokens, window {WINDOW_S} s: {args.out}")


if __name__ == "__main__":
    main()
