"""What the run folders of run.sh say of each student; nothing here is measured or guessed.

    RUNS/students/<encoder>+<decoder>-<gate>[-<way>]/seed-<n>/{distilled,eval,sensitivity,comparisons,outliers}/

The teacher's folder RUNS/teacher has the same parts but no training.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whisperq import artifact
from whisperq.report.gathering import gather
from whisperq.report.word_errors import read_errors

GATES = ("none", "headwise", "elementwise")
WAYS = {None: "", "kl": ", KL alone", "range": ", KL and ranges"}
PLACE = re.compile(r"(\d+\+\d+)-(none|headwise|elementwise)(?:-(kl|range))?/seed-(\d+)$")
GROUPS = {  # of sites: what a reader calls them
    "enc.*.out_proj": "encoder, attention outputs",
    "enc.*.fc2:input": "encoder, fc2 inputs",
    "enc.*.mlp_sum": "encoder, residual sums",
    "dec.*.out_proj": "decoder, attention outputs",
    "dec.*.cross.out_proj": "decoder, cross-attention outputs",
    "dec.*.fc2:input": "decoder, fc2 inputs",
    "dec.*.mlp_sum": "decoder, residual sums",
}


@dataclass(frozen=True)
class Student:
    """One training; the teacher itself is of gate "teacher" and seed 0.

    way: how it was trained, where that was not by cross-entropy and KL; a key of WAYS.
    """

    depth: str  # encoder + decoder layers, such as 4+2
    gate: str
    seed: int
    run: Path
    way: str | None = None

    @property
    def title(self) -> str:
        return f"{self.gate}{WAYS[self.way]}"

    @property
    def finished(self) -> bool:
        return all(artifact.is_artifact(self.run / name) for name in ("eval/gemm", "outliers/after/mlp"))

    def results(self, name: str, kind: Any) -> Any:
        """None of an artifact that is not there. Raises InputError for one that is not as it was made."""
        place = self.run / name
        return artifact.load(place, kind).results if artifact.is_artifact(place) else None


def students(runs: Path) -> list[Student]:
    """Those that were measured to the end, the teacher first, then the deepest, without a gate, of the first seed."""
    found = []
    for folder in sorted(runs.glob("students/*/seed-*")):
        if match := PLACE.search(folder.as_posix()):
            found.append(Student(match[1], match[2], int(match[4]), folder, match[3]))
    ways = list(WAYS)
    found.sort(key=lambda s: ([-int(n) for n in s.depth.split("+")], ways.index(s.way), GATES.index(s.gate), s.seed))
    return [s for s in (Student("4+4", "teacher", 0, runs / "teacher"), *found) if s.finished]


def errors_of(run: Path, system: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Set -> reference words and word errors of each utterance, (utterances,) both. Raises InputError."""
    (entry,) = gather([run / "eval" / system], verify=False).of_kind("evaluation")
    return {s.name: (words, errors) for s, words, _, errors in read_errors(entry)}


def outliers(student: Student, when: str) -> dict[str, dict[str, dict[str, float]]]:
    """Group of sites -> role or "all" -> mean kurtosis, greatest infinity norm, share of six-sigma outliers."""
    sites: dict[str, dict[str, Any]] = {}
    for part in ("attention", "mlp"):
        file = student.run / "outliers" / when / part / "outliers.json"
        if file.is_file():
            sites |= json.loads(file.read_text(encoding="utf-8"))["model"]["statistics"]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for group in GROUPS:
        members = [s for a, s in sites.items() if re.sub(r"\.\d+\.", ".*.", a) == group]
        if not members:
            continue
        for role in dict.fromkeys(("all", *(r for s in members for r in s["roles"]))):
            figures = [s if role == "all" else s["roles"][role] for s in members]
            found.setdefault(group, {})[role] = {
                "kurtosis": float(np.mean([f["kurtosis"] for f in figures])),
                "max_inf_norm": max(f["inf_norm"] for f in figures),
                "rate": sum(f["outliers"] for f in figures) / sum(f["values"] for f in figures),
            }
    return found


def spread(student: Student, when: str) -> dict[str, dict[str, float]]:
    """Role -> rows, the share of them with a magnitude above 100, standard deviation, as spread.py counts them."""
    file = student.run / "outliers" / when / "spread.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def logged(student: Student, figure: str) -> Iterator[dict[str, Any]]:
    """The training log's entries that have this figure, step by step."""
    log = student.run / "distilled" / "metrics.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        if figure in (entry := json.loads(line)):
            yield entry


def sinks(student: Student, when: str) -> list[float]:
    """What part of their attention the text's rows give to the prompt, of each head of the last decoder layer."""
    found = student.results(f"attention/{when}", "attention")
    return [head["tokens"]["prompt"] for head in found["shares"].values()] if found else []
