"""Word error rate over the tail: how much behind the speech must be computed.

    python curve.py MODEL RUNTIME FILE --speech SPEECH

writes FILE, JSON: for the full window and for each tail the WER, the share of the window's rows that are computed, and
how many recordings were decoded again in full. Done work is not done again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

TAILS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds
LISTS = ("librispeech_dev.jsonl", "ljspeech_train.jsonl")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("runtime", choices=("float", "emulated", "int8"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--speech", type=Path, required=True, help="folder of the utterance lists")
    parser.add_argument("--limit", type=int, default=100, help="100: so many of each list, spread over all of it")
    return parser.parse_args()


def recordings(speech: Path, limit: int) -> list[dict[str, Any]]:
    found = []
    for name in LISTS:
        lines = (speech / name).read_text(encoding="utf-8").splitlines()
        found += [json.loads(line) for line in lines[:: max(1, len(lines) // limit)][:limit]]
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from whisperq.data.audio import load_audio
    from whisperq.data.utterance import Utterance
    from whisperq.options import Execution
    from whisperq.runtime.open import open_runtime
    from whisperq.runtime.padding import Short, noise, rows_of, speech_frames
    from whisperq.scoring.normalizers import get_normalizer, published_spelling
    from whisperq.scoring.words import count_errors
    from whisperq.settings import Context

    normalize = get_normalizer("english", published_spelling())
    lines = recordings(options.speech, options.limit)
    files = [str(options.speech / line["audio_filepath"]) for line in lines]
    found: dict[str, Any] = {"model": options.model.name, "runtime": options.runtime, "tails": {}}
    with open_runtime(options.model, Execution(runtime=options.runtime), Context(device="cpu")) as opened:
        rate = opened.loader.extractor.sampling_rate
        features = [opened.loader.features([load_audio(Utterance(f, f, None, None), rate)]) for f in files]
        padding = partial(opened.loader.features, [noise(rate)])
        for tail in (None, *TAILS):
            runtime = opened.runtime if tail is None else Short(opened.runtime, padding, tail)
            texts = [opened.loader.codec.decode(opened.rules.read(runtime, one)[0]) for one in features]
            errors = count_errors([line["text"] for line in lines], texts, normalize)
            result = {"wer": errors.wer, "reference_words": errors.reference_words}
            if tail is None:
                found["full"] = result
                continue
            windows = [one.shape[2] // 2 for one in features]
            frames = [speech_frames(one)[0] for one in features]
            rows = sum(rows_of(n, tail, window) for n, window in zip(frames, windows, strict=True))
            found["tails"][str(tail)] = {**result, "rows": rows / sum(windows), "again": runtime.again}
    return found


def main() -> None:
    options = arguments()
    if not options.file.is_file():
        found = measure(options)
        options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
