"""The hypotheses of all sets of an evaluation in one file, for `whisperq compare` to judge them together.

python pooled.py EVALUATION FILE

Every word counts alike, whichever set it comes from: error rates and intervals are those of one set that holds both.
"""

import json
import sys
from pathlib import Path

from whisperq import artifact

KEPT = ("duration", "time", "speaker", "text", "pred_text")


def pooled(evaluation: Path) -> list[dict]:
    """One line for each utterance, its id behind its set's name. Raises InputError for what is no evaluation."""
    sets = artifact.load(evaluation, "evaluation").results["sets"]
    files = {name: (evaluation / "hypotheses" / f"{name}.jsonl").read_text(encoding="utf-8") for name in sets}
    lines = [(name, json.loads(line)) for name, text in files.items() for line in text.splitlines()]
    return [{"id": f"{name}/{x['id']}", **{k: x[k] for k in KEPT if k in x}} for name, x in lines]


if __name__ == "__main__":
    evaluation, file = map(Path, sys.argv[1:])
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in pooled(evaluation)), encoding="utf-8")
