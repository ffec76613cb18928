"""Recordings of any length to text, subtitles or JSON, written as they are done."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from whisperq import artifact
from whisperq.data.audio import audio_seconds
from whisperq.data.languages import code_of, name_of
from whisperq.data.long_audio import Piece, pieces_of
from whisperq.data.recording import Recording
from whisperq.data.timed_words import Language, Segment, Transcript
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, Interrupted, ReadError, UsageError
from whisperq.jobs.progress import bar, say, say_again, say_how
from whisperq.jobs.signals import stop_requested
from whisperq.options import TranscribeConfig
from whisperq.publishing import destination
from whisperq.results.transcript_writer import Scribe, check_writable
from whisperq.results.transcripts import STDIN, is_stream, named_once, no_recording, output_files
from whisperq.runtime.decoding import Rules, with_times
from whisperq.runtime.fallback import Care
from whisperq.runtime.interruptible import Stoppable, Stopped
from whisperq.runtime.long_form import AnyRules, Languages, transcribe_pieces
from whisperq.runtime.open import Opened, open_runtime
from whisperq.runtime.padding import again_in_full
from whisperq.settings import Context

AUTO = "auto"
Unusable = InputError | ReadError
SURE, UNLIKELY = 0.8, 0.1  # probabilities of the detected and of the given language, where they contradict


def transcribe(
    model: Path,
    files: tuple[str, ...],
    out: Path | None,
    config: TranscribeConfig,
    context: Context,
    output: TextIO | None = None,  # in the place of standard output
) -> str:
    """The transcripts of all files, in their order: where `out` takes them, else printed; in Python, returned as text.

    A file named - is read from standard input. `out` is a file, or a folder that takes one file for each recording:
    where it is a folder already, and where several recordings become srt or vtt. Each is written when it is done.
    Raises UsageError for an output that exists (without --force) or cannot hold the transcripts, InputError for models
    that cannot be used, in the end for recordings that could not (without skip_bad), and at once where none can;
    Interrupted where it was told to stop.
    """
    named = output_files(files, out, config.format)
    places = [place if is_stream(place) else destination(place) for place in named]
    if taken := next((place for place in places if place.exists() and not is_stream(place)), None):
        if not context.force or taken.is_dir():
            raise UsageError(f"{taken} exists; give --force to replace it, or another --out")
    context = replace(context, language=chosen_language(config, context))
    task = Task([open_recording(name) for name in named_once(files)])
    seconds = task.look()
    check_writable(places)
    if artifact.is_artifact(model):
        artifact.load(model)  # its files are what its manifest says
    with stop_requested() as stopping, open_runtime(model, config, context) as opened:
        say_how(opened.runtime)
        rules = choose_rules(opened, config)
        heading = {"model": str(model), "runtime": opened.runtime.name, "timestamps": times_of(rules)}
        scribe = Scribe(places, config.format, len(files) > 1, heading, output)
        opened = replace(opened, runtime=Stoppable(opened.runtime, stopping), rules=rules)
        try:
            for number, transcript in task.listen(opened, seconds, config, context):
                scribe.take(number, transcript)
        except Stopped:
            done = f"{len(scribe.done):,} of {len(files):,} recordings are transcribed"
            raise Interrupted(f"told to stop: {done}; name the others, or give --force to do all again") from None
        finally:
            scribe.close()
        say_again(again_in_full(opened.runtime))
    task.conclude(config.skip_bad)
    return ""  # all is written


def chosen_language(config: TranscribeConfig, context: Context) -> str | None:
    """Code of the language to transcribe in; None: detect it. Raises UsageError for an unknown --language."""
    if config.language is None:
        return context.language
    if config.language.strip().lower() == AUTO:
        return None
    try:
        return code_of(config.language)
    except InputError as error:
        raise UsageError(f"--language: {error}") from None


def open_recording(name: str) -> Utterance:
    """A named file; what cannot be read twice, standard input or a pipe, is taken into memory."""
    if name == STDIN:
        return Utterance(STDIN, sys.stdin.buffer.read(), None, None, origin="standard input")
    audio = path.read_bytes() if (path := Path(name)).is_fifo() else name
    return Utterance(name, audio, None, None, origin=name)


def choose_rules(opened: Opened, config: TranscribeConfig) -> AnyRules:
    """Decoding rules, with times where the model was trained to write them or --timestamps asks for them.

    Raises UsageError where the vocabulary has no times.
    """
    wanted = opened.rules.knows_times if config.timestamps is None else config.timestamps
    if not wanted:
        return opened.rules
    if not isinstance(opened.rules, Rules) or not opened.loader.codec.times:
        raise UsageError("this model's vocabulary has no times; leave out --timestamps")
    return with_times(opened.rules, opened.loader.codec)


def times_of(rules: AnyRules) -> str:
    return "model" if rules.times else "pieces"


@dataclass
class Task:
    """All recordings, and what became of them by number."""

    recordings: Sequence[Utterance]
    bad: dict[int, Unusable] = field(default_factory=dict)  # why they could not be used
    seconds: dict[int, float] = field(default_factory=dict)
    pieces: dict[int, int] = field(default_factory=dict)  # how many each had: all of them have been read

    def look(self) -> float:
        """Seconds of all recordings, as their headers have them. Raises InputError where none can be used."""
        total = 0.0
        for number, recording in enumerate(self.recordings):
            try:
                if what := no_recording(recording.id):
                    raise InputError(f"{recording.id} is {what}")
                total += audio_seconds(recording)
            except (InputError, ReadError) as error:
                self.leave_out(number, error)
        if len(self.bad) == len(self.recordings):
            raise self.bad[0]
        return total

    def leave_out(self, number: int, error: Unusable) -> None:
        self.bad[number] = error
        if len(self.recordings) > 1:
            say(f"left out: {error}")

    def listen(
        self, opened: Opened, seconds: float, config: TranscribeConfig, context: Context
    ) -> Iterator[tuple[int, Transcript]]:
        """Number and transcript of each usable recording, once all of it is transcribed. `seconds`: of all audio."""
        care = Care(config.temperature_fallback, config.no_speech_threshold, context.seed)
        spoken = Languages(opened.rules, opened.loader.codec, asked=True)
        segments_of: list[list[Segment]] = [[] for _ in self.recordings]
        found, next_one = [0] * len(segments_of), 0
        with bar() as progress:
            shown = progress.add_task("transcribe", total=round(seconds), unit="s of audio")
            pipeline = (opened.runtime, opened.loader, opened.rules)
            for piece, segments in transcribe_pieces(
                *pipeline, self.read(opened), config.batch_size, care=care, spoken=spoken
            ):
                segments_of[piece.recording] += segments
                found[piece.recording] += 1
                progress.advance(shown, piece.seconds)
                while next_one < len(segments_of) and self.pieces.get(next_one) == found[next_one]:
                    yield from self.finished(next_one, segments_of[next_one], spoken)
                    next_one += 1
            for number in range(next_one, len(segments_of)):
                yield from self.finished(number, segments_of[number], spoken)

    def read(self, opened: Opened) -> Iterator[Piece]:
        """The pieces of all recordings that can be used; each is opened when its turn comes."""
        extractor = opened.loader.extractor
        for number, recording in enumerate(self.recordings):
            count = 0
            try:
                if number not in self.bad:
                    with Recording(recording, extractor.sampling_rate) as sound:
                        self.seconds[number] = sound.seconds
                        for piece in pieces_of(number, sound, extractor.n_samples, trim=True):
                            count += 1
                            yield piece
            except (InputError, ReadError) as error:
                self.leave_out(number, error)
            self.pieces[number] = count

    def finished(self, number: int, segments: list[Segment], spoken: Languages) -> Iterator[tuple[int, Transcript]]:
        if number in self.bad:
            return
        recording, language = self.recordings[number], None
        if start := spoken.detected.get(number):
            language = Language(spoken.code(start.language), start.probability)
            self.announce(recording, language, spoken, start.of_prompt)
        found = language if spoken.open else None
        yield number, Transcript(recording.id, self.seconds[number], tuple(segments), found)

    def announce(self, recording: Utterance, detected: Language, spoken: Languages, of_prompt: float) -> None:
        """Announce the detected language, or warn where it is hardly the one that was given."""
        title = f"{name_of(detected.code)}, probability {detected.probability:.2f}"
        if spoken.open:
            say(f"language of {recording.id}: {title}")
        elif isinstance(spoken.rules, Rules) and detected.probability >= SURE and of_prompt <= UNLIKELY:
            given = name_of(spoken.code(spoken.rules.prompt[1]))
            say(
                f"warning: {recording.id} sounds like {title}, but is transcribed as {given}; "
                f"give --language {detected.code}, or --language {AUTO}"
            )

    def conclude(self, skip_bad: bool) -> None:
        """Raises the error of recordings that could not be used: of all, or of any where they are not to be skipped.

        What may be good but could not be read is never skipped.
        """
        unread = any(isinstance(error, ReadError) for error in self.bad.values())
        if not self.bad or (skip_bad and not unread and len(self.bad) < len(self.recordings)):
            return
        first = next(iter(self.bad.values()))
        if len(self.recordings) == 1:
            raise first
        raise InputError(f"{len(self.bad):,} of {len(self.recordings):,} recordings could not be used: {first}")
