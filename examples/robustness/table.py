"""Words of whisperq and faster-whisper beside each other, in each kind of recording; INT8 beside float at each level.

    python table.py RUN... --out RESULTS

A run holds clips/KIND.jsonl, heard/SYSTEM/KIND/NAME.EXTENSION, and the comparison levels-int8-vs-float. Writes
RESULTS/robustness.json and robustness.md.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from whisperq import artifact
from whisperq.results.cells import in_brackets
from whisperq.scoring.normalizers import get_normalizer, published_spelling
from whisperq.scoring.words import count_errors

KINDS = ("paused", "continuous", "sounds")
PEER = "faster-whisper"
COLUMNS = ("model", "recordings", "system", "words", "deletions", "insertions", "substitutions", "WER %")
LEVEL_COLUMNS = ("model", "level", "words", "WER % float", "WER % INT8", "difference", "verdict")
CUE = re.compile(r"^(\d+|[\d:,.]+ --> [\d:,.]+)$")  # a number or the times of an SRT file


def text_of(file: Path) -> str:
    content = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return " ".join(segment["text"] for one in json.loads(content)["files"] for segment in one["segments"])
    lines = content.splitlines()
    return " ".join(line for line in lines if file.suffix != ".srt" or not CUE.fullmatch(line))


def counts(run: Path, kind: str, folder: Path) -> dict[str, Any]:
    normalize = get_normalizer("english", published_spelling())
    entries = [json.loads(line) for line in (run / "clips" / f"{kind}.jsonl").read_text("utf-8").splitlines()]
    files = [next(folder.glob(f"{e['id']}.*")) for e in entries]
    texts = list(map(text_of, files))
    found = count_errors([e["text"] for e in entries], texts, normalize).as_dict()
    spoken = sum(bool(normalize(text)) for text in texts)
    return found | {"recordings": len(entries), "not_empty": spoken}


def measured(run: Path) -> dict[str, dict[str, Any]]:
    """By kind and system."""
    return {
        kind: {
            system.name: counts(run, kind, system / kind)
            for system in sorted((run / "heard").iterdir(), key=lambda place: (place.name != PEER, place.name))
            if (system / kind).is_dir()
        }
        for kind in KINDS
    }


def rows(model: str, found: dict[str, dict[str, Any]]) -> list[list[str]]:
    made = []
    for kind, systems in found.items():
        for system, c in systems.items():
            where = [model, f"{c['recordings']} {kind}", system]
            if kind == "sounds":  # nobody speaks: every word is one too many
                inserted = f"{c['empty_reference_insertions']} (in {c['not_empty']} recordings)"
                made.append([*where, "0", "-", inserted, "-", "-"])
                continue
            numbers = (c[name] for name in ("reference_words", "deletions", "insertions", "substitutions"))
            made.append([*where, *map(str, numbers), f"{100 * c['wer']:.2f}"])
    return made


def levels(run: Path) -> dict[str, Any]:
    """INT8 against float, by condition, as `compare` found it; none where it was not run."""
    place = run / "levels-int8-vs-float"
    return artifact.load(place, "comparison").results["sets"] if artifact.is_artifact(place) else {}


def level_rows(model: str, found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, one in found.items():
        rates = [f"{100 * one[key]:.2f}" for key in ("wer_a", "wer_b")]
        points = in_brackets(one["difference"], one["interval_95"])
        rows.append([model, name, str(one["reference_words"]), *rates, points, one["verdict"]])
    return rows


def markdown(header: tuple[str, ...], lines: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [list(header), ["---"] * len(header), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {run.name: {"words": measured(run), "levels": levels(run)} for run in options.runs}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "robustness.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    words = [row for model, one in found.items() for row in rows(model, one["words"])]
    loud = [row for model, one in found.items() for row in level_rows(model, one["levels"])]
    text = f"{markdown(COLUMNS, words)}\n{markdown(LEVEL_COLUMNS, loud)}"
    (options.out / "robustness.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
