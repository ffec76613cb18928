"""Hypotheses files: JSON lines with a reference and a hypothesis, ours or of another tool.

`text` and `pred_text` are needed, as NeMo and the Open ASR Leaderboard write them; `id`, `audio_filepath`, `offset`,
`duration`, `time` (seconds), `speaker` and `recording` are taken where they are. A line without an id is known by its
recording and offset, or, where several lines share these, by its number.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whisperq.data.lines import TableFile
from whisperq.data.utterance import SPEAKER_COLUMNS, Utterance, label_of, seconds_of, text_of
from whisperq.errors import InputError


@dataclass(frozen=True)
class HypothesisLine:
    """One utterance with its reference and its hypothesis, both raw."""

    id: str
    text: str
    pred_text: str
    audio: str | None = None  # a path
    offset: float = 0.0  # seconds
    duration: float | None = None  # seconds of audio
    time: float | None = None  # wall seconds of features and decoding
    speaker: str | None = None
    recording: str | None = None
    cut_short: bool = False  # whether decoding ended at the bound of its length

    @property
    def source(self) -> str | None:
        """What recording it is cut from."""
        return self.recording or self.audio

    def entry(self, final: Path) -> dict[str, Any]:
        """The JSON line; an audio path counts from `final`, the folder where the file will lie in the end."""
        known = {
            "offset": self.offset or None,
            "speaker": self.speaker,
            "recording": self.recording,
            "cut_short": self.cut_short or None,
        }
        return {
            "id": self.id,
            "audio_filepath": None if self.audio is None else os.path.relpath(self.audio, final),
            "duration": self.duration,
            "time": self.time,
            **{key: value for key, value in known.items() if value is not None},
            "text": self.text,
            "pred_text": self.pred_text,
        }


def line_of(utterance: Utterance, text: str, seconds: float, wall: float) -> HypothesisLine:
    """The line of an utterance with a reference: `text` is the hypothesis of `seconds` of audio in `wall` seconds."""
    audio = utterance.audio if isinstance(utterance.audio, str) else None
    return HypothesisLine(
        utterance.id,
        utterance.text or "",
        text,
        audio,
        offset=utterance.offset,
        duration=seconds,
        time=wall,
        speaker=utterance.speaker,
    )


def write_hypotheses(lines: Sequence[HypothesisLine], path: Path, final: Path) -> None:
    """One JSON object a line, texts raw; a lone half of a surrogate pair goes back into its escape."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(json.dumps(line.entry(final), ensure_ascii=False) + "\n" for line in lines)


def read_hypotheses(path: Path) -> list[HypothesisLine]:
    """Raises InputError for a file that is none, with the first line that is not as it must be."""
    found = [_line(path, line.number, line.problem, line.fields) for line in TableFile(path).lines(hashlib.sha256())]
    if not found:
        raise InputError(f"{path} holds no hypotheses")
    unnamed = Counter(line.id for _, named, line in found if not named)
    taken: dict[str, int] = {}
    lines = []
    for number, named, line in found:
        name = line.id if named or (line.id and unnamed[line.id] == 1) else f"line {number}"
        if name in taken:
            raise InputError(f"{path} line {number}: the id {name} is already that of line {taken[name]}")
        taken[name] = number
        lines.append(replace(line, id=name))
    return lines


def _line(path: Path, number: int, problem: str | None, fields: dict[str, Any]) -> tuple[int, bool, HypothesisLine]:
    """The line's number, whether it has an id of its own, and the line."""
    where = f"{path} line {number}"
    if problem:
        raise InputError(f"{where} {problem}")
    texts = {column: text_of(fields, (column,), where) for column in ("text", "pred_text")}
    given = {column: text for column, text in texts.items() if text is not None}
    if missing := [column for column in texts if column not in given]:
        hint = "the reference" if missing[0] == "text" else "the hypothesis"
        raise InputError(f"{where} lacks {missing[0]}, {hint}")
    audio, offset = label_of(fields, ("audio_filepath",), where), seconds_of(fields, "offset", where) or 0.0
    name, speaker = label_of(fields, ("id",), where), label_of(fields, SPEAKER_COLUMNS, where)
    line = HypothesisLine(
        id=name or (audio or "") + (f"-{offset:g}" if offset else ""),
        audio=None if audio is None else os.path.join(path.parent, audio),
        offset=offset,
        duration=seconds_of(fields, "duration", where),
        time=seconds_of(fields, "time", where),
        speaker=speaker,
        recording=label_of(fields, ("recording",), where),
        cut_short=fields.get("cut_short") is True,
        text=given["text"],
        pred_text=given["pred_text"],
    )
    return number, name is not None, line
