"""What flags and manifests alone refuse, before a step begins: alike with --dry-run and without."""

from pathlib import Path

import pytest

REFUSED = {
    "a micro-batch that does not divide": ("distill --micro-batch 3 --batch-size 8", 2, "does not divide"),
    "and of mixed precision": ("mixed-precision --micro-batch 3 --batch-size 8", 2, "does not divide"),
    "a distillation of nothing": ("distill --ce-weight 0 --kl-weight 0", 2, "--ce-weight and --kl-weight are"),
    "and a training of bits": ("mixed-precision --task-weight 0 --kl-weight 0", 2, "--task-weight and --kl-weight are"),
    "too many beams": ("eval --model distilled --beams 1000", 2, "--beams must be at most 32, not 1000"),
    "too many resamples": ("compare own.jsonl own.jsonl --resamples 10000000000", 2, "--resamples must be at most"),
    "a time that is none": ("distill --max-time 1", 2, "must be a time such as"),
    "two subtitles on standard output": ("transcribe a.wav b.wav --format srt", 2, "name a folder for them"),
    "two recordings of one name": ("transcribe a.wav ./a.wav --format srt --out new", 2, "would both be written"),
    "a transcript that is there": ("transcribe a.wav --out folder", 2, "give --force"),
    "standard input twice": ("transcribe - -", 2, "name - once"),
    "a folder of recordings": ("transcribe folder", 3, "is a folder"),
    "two sets of one name": ("score own.jsonl own.jsonl", 2, "two sets are named own"),
    "two test sets of one name": (
        "eval --model distilled --test a=own.jsonl --test a=own.jsonl",
        2,
        "two sets are named a",
    ),
    "a float model's sensitivity": ("sensitivity --model distilled", 3, "a quantized model is needed"),
    "a float model in integers": ("eval --model distilled --runtime int8", 2, "it runs with --runtime float"),
    "recipe paper in integers": ("eval --model paper-w8a8 --runtime int8", 2, "--runtime emulated"),
    "recipe paper in graphs": ("eval --model paper-w8a8 --runtime onnx", 2, "no form in integers"),
    "an exported recipe paper": ("export --model paper-w8a8", 2, "no form in integers"),
    "seven bits of a float model": ("eval --model distilled --reduce-range", 2, "--reduce-range is for"),
    "graphs on a GPU": ("eval --model gemm-w8a8 --runtime onnx --device cuda", 2, "runs on the CPU"),
}


@pytest.mark.parametrize("words, code, reason", REFUSED.values(), ids=REFUSED)
def test_what_flags_or_manifests_alone_refuse_is_refused_here_too(words, code, reason, copied_run, invoke):
    for name in ("a.wav", "b.wav", "own.jsonl", "folder/a.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("")
    model = ("--model", "gemm-w8a8") if words.startswith("transcribe") else ()
    for flags in (("--dry-run",), ()):
        result = invoke(*words.split(), *model, *flags)
        assert result.exit_code == code and reason in " ".join(result.stderr.split()), result.output
