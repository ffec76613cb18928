"""Transcripts as plain text, JSON, SubRip (srt) and WebVTT (vtt)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from whisperq.data.timed_words import Segment, Transcript
from whisperq.names import printable

EXTENSIONS = {"text": "txt", "json": "json", "srt": "srt", "vtt": "vtt"}
ONE_RECORDING = ("srt", "vtt")  # formats in which one file cannot hold two recordings


def write(format: str, transcripts: Sequence[Transcript], heading: Mapping[str, Any]) -> str:
    """The whole content of a file; `heading` is what JSON says of all recordings. srt and vtt take one recording."""
    if format == "text":
        return as_text(transcripts)
    if format == "json":
        return as_json(transcripts, heading)
    (transcript,) = transcripts
    return as_srt(transcript.segments) if format == "srt" else as_vtt(transcript.segments)


def as_text(transcripts: Sequence[Transcript], several: bool | None = None) -> str:
    """One line for each recording, behind its name and a tab where there are several, as `several` may say.

    A line is a recording, so that wc, paste, cut and diff apply; where a long one was cut says nothing about its
    sentences, and who wants the pieces apart asks for another format.
    """
    several = len(transcripts) > 1 if several is None else several
    lines = ((f"{printable(t.name)}\t" if several else "") + " ".join(t.text.split()) for t in transcripts)
    return "".join(f"{line}\n" for line in lines)


def as_json(transcripts: Sequence[Transcript], heading: Mapping[str, Any]) -> str:
    """One object on one line; times in seconds, to the millisecond.

    {...heading, "files": [{"audio_filepath", "duration", "text", "segments": [{"start", "end", "text"}]}]}
    and of a file whose language the model found out "language" and "language_probability".
    """
    files = [
        {
            "audio_filepath": t.name,
            "duration": round(t.duration, 3),
            "text": t.text,
            **(
                {"language": t.language.code, "language_probability": round(t.language.probability, 3)}
                if t.language
                else {}
            ),
            "segments": [{"start": round(s.start, 3), "end": round(s.end, 3), "text": s.text} for s in t.segments],
        }
        for t in transcripts
    ]
    content = json.dumps({**heading, "files": files}, ensure_ascii=False) + "\n"
    return content.encode("utf-8", "backslashreplace").decode()  # a name's bytes that are no UTF-8, as JSON's escapes


def as_srt(segments: Sequence[Segment]) -> str:
    """SubRip text: numbered cues, HH:MM:SS,mmm. It has no escapes: an arrow, where parsers split, is shortened."""
    cues = enumerate(segments, start=1)
    return "\n".join(f"{i}\n{_span(s, ',')}\n{_line(s).replace('-->', '->')}\n" for i, s in cues)


def as_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT text: a header, then cues, HH:MM:SS.mmm; &, < and > are escaped, which covers the arrow."""
    cues = (f"\n{_span(s, '.')}\n{_escaped(_line(s))}\n" for s in segments)
    return "WEBVTT\n" + "".join(cues)


def _line(segment: Segment) -> str:
    return " ".join(segment.text.split())  # an empty line would end the cue


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _span(segment: Segment, mark: str) -> str:
    return f"{_clock(segment.start, mark)} --> {_clock(segment.end, mark)}"


def _clock(seconds: float, mark: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{milliseconds:03d}"
