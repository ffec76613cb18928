"""Recordings of any length to text, subtitles or JSON."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from whisperq import artifact
from whisperq.data.audio import audio_seconds
from whisperq.data.segments import Segment, Transcript
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.flags import Context
from whisperq.options import TranscribeConfig
from whisperq.report.progress import bar, say, say_how
from whisperq.report.subtitles import write
from whisperq.report.transcripts import STDIN, named_once, output_files
from whisperq.runtime.decoding import with_times
from whisperq.runtime.opening import Opened, open_runtime
from whisperq.runtime.transcription import AnyRules, Piece, cut, hear


def transcribe(
    model: Path, files: tuple[str, ...], out: Path | None, config: TranscribeConfig, context: Context
) -> str:
    """The transcripts of all files, in their order: the text to print, or "" where `out` takes it.

    A file named - is read from standard input. `out` is a file, or a folder that takes one file for each recording:
    where it is a folder already, and where several recordings become srt or vtt. All is written in the end, or
    nothing. Raises UsageError for an output that exists (without --force) or cannot hold the transcripts, InputError
    for audio and models that cannot be used; missing and unreadable audio before the model is loaded.
    """
    places = output_files(files, out, config.format)
    if taken := next((place for place in places if place.exists()), None):
        if not context.force or taken.is_dir():
            raise UsageError(f"{taken} exists; give --force to replace it, or another --out")
    recordings = [open_recording(name) for name in named_once(files)]
    seconds = sum(map(audio_seconds, recordings))
    if artifact.is_artifact(model):
        artifact.load(model)  # its files are what its manifest says
    with open_runtime(model, config, context) as opened:
        say_how(opened.runtime)
        rules = choose_rules(opened, config)
        transcripts = listen(opened, rules, recordings, seconds, config.batch_size)
        times = "model" if rules.times else "pieces"
        heading = {"model": str(model), "runtime": opened.runtime.name, "timestamps": times}
    if out is None:
        return write(config.format, transcripts, heading)
    groups = [transcripts] if len(places) == 1 else [[t] for t in transcripts]
    for place, group in zip(places, groups, strict=True):
        write_whole(place, write(config.format, group, heading))
        say(f"transcript: {place}")
    return ""


def open_recording(name: str) -> Utterance:
    """A named file; what cannot be read twice, standard input or a pipe, is taken into memory. Raises InputError."""
    if name == STDIN:
        return Utterance(STDIN, sys.stdin.buffer.read(), None, None, origin="standard input")
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{name} is a folder; name the recordings in it")
    audio = path.read_bytes() if path.is_fifo() else name
    return Utterance(name, audio, None, None, origin=name)


def choose_rules(opened: Opened, config: TranscribeConfig) -> AnyRules:
    """With the model's own times where they are asked for, or can be had and will be shown. Raises UsageError."""
    wanted = config.timestamps
    if wanted is None:
        wanted = opened.rules.knows_times and config.format != "text"
    if wanted and not opened.loader.codec.times:
        raise UsageError("this model's vocabulary has no times; leave out --timestamps")
    return with_times(opened.rules, opened.loader.codec) if wanted else opened.rules


def listen(
    opened: Opened, rules: AnyRules, recordings: Sequence[Utterance], seconds: float, batch_size: int
) -> list[Transcript]:
    """Pieces of all recordings decoded together; a recording is read when its turn comes. `seconds`: of all audio."""
    heard: list[list[Segment]] = [[] for _ in recordings]
    lengths = [0.0] * len(recordings)
    with bar() as progress:
        task = progress.add_task("transcribe", total=round(seconds), unit="s of audio")
        pieces = all_pieces(opened, recordings)
        for piece, segments in hear(opened.runtime, opened.loader, rules, pieces, batch_size):
            heard[piece.recording] += segments
            lengths[piece.recording] += piece.seconds
            progress.advance(task, piece.seconds)
    triples = zip(recordings, lengths, heard, strict=True)
    return [Transcript(recording.id, length, tuple(segments)) for recording, length, segments in triples]


def all_pieces(opened: Opened, recordings: Sequence[Utterance]) -> Iterator[Piece]:
    for index, recording in enumerate(recordings):
        audio = opened.loader.audio(recording)
        if audio is not None:
            yield from cut(index, audio, opened.loader.extractor)


def write_whole(place: Path, content: str) -> None:
    """UTF-8, written beside and renamed: the file is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
