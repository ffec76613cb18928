"""Transcribe pieces of recordings in batches: each from where it was left, until all of it is transcribed."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from whisperq.data.batches import Loader
from whisperq.data.long_audio import Piece
from whisperq.data.timed_words import Segment
from whisperq.data.tokens import Codec
from whisperq.jobs.stopwatch import Stopwatch
from whisperq.runtime.beams import BeamRules
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Rules
from whisperq.runtime.detection import Question, Start
from whisperq.runtime.fallback import ONCE, Care, Decoding
from whisperq.runtime.seeking import Search

# A Runtime with Rules, a CtcRuntime with CtcRules: two of a pair, which the annotation of one cannot say.
AnyRuntime = Any
AnyRules = Rules | CtcRules


@dataclass
class Languages:
    """What is known of recordings' languages: each recording's first window with words."""

    rules: AnyRules
    codec: Codec
    asked: bool = False  # whether to detect languages where one is given, too
    detected: dict[int, Start] = field(default_factory=dict)  # by the recording's place in the list

    @property
    def open(self) -> bool:
        """Whether decoding waits for them."""
        return isinstance(self.rules, Rules) and bool(self.rules.languages)

    @property
    def question(self) -> tuple[int, ...]:
        """Tokens of all languages to detect where one is given; none where the given one is not in the vocabulary."""
        tokens = tuple(self.codec.languages.values())
        if not (self.asked and len(tokens) > 1 and isinstance(self.rules, Rules)):
            return ()
        return tokens if self.rules.prompt[1] in tokens else ()

    def unknown(self, recording: int) -> bool:
        return self.open and recording not in self.detected

    def token(self, recording: int) -> int | None:
        return self.detected[recording].language if self.open and recording in self.detected else None

    def code(self, token: int) -> str:
        return next(code for code, one in self.codec.languages.items() if one == token)


def transcribe_pieces(
    runtime: AnyRuntime,
    loader: Loader,
    rules: AnyRules,
    pieces: Iterable[Piece],
    batch_size: int,
    watch: Stopwatch | None = None,
    care: Care = ONCE,
    spoken: Languages | None = None,
    cut_short: set[int] | None = None,
) -> Iterator[tuple[Piece, list[Segment]]]:
    """Transcribe pieces: each with its segments, in order; none in silence. Reads one piece more than a batch ahead.

    care: fallbacks of decoding; spoken: collects the languages that are detected; cut_short: collects the recordings of
    which a window's tokens came to their bound (`Rules.cut_short`).
    """
    spoken = spoken or Languages(rules, loader.codec)
    cut_short = set() if cut_short is None else cut_short
    listener = Listener(runtime, loader, rules, watch or Stopwatch(loader.device), care, spoken, cut_short)
    waiting: deque[Search] = deque()  # in order; finished ones stay until all before them are finished
    coming = Coming(iter(pieces), loader.extractor.sampling_rate)
    while True:
        batch = [search for search in waiting if search.open][:batch_size]
        while len(batch) < batch_size and (search := coming.take(waiting, spoken)):
            waiting.append(search)
            if care.no_speech is not None and search.levels.silent:
                search.open = False
            else:
                batch.append(search)
        if batch:
            listener.listen(batch)
        while waiting and not waiting[0].open:
            search = waiting.popleft()
            yield search.piece, search.found
        if not batch:
            return


@dataclass
class Coming:
    """Pieces that are not transcribed yet."""

    pieces: Iterator[Piece]
    rate: int
    next: Piece | None = None

    def take(self, waiting: Iterable[Search], spoken: Languages) -> Search | None:
        """The next one, but of a recording whose language is not known one at a time."""
        if self.next is None:
            self.next = next(self.pieces, None)
        if self.next is None:
            return None
        if spoken.unknown(number := self.next.recording):
            if any(one.open and one.piece.recording == number for one in waiting):
                return None
        piece, self.next = self.next, next(self.pieces, None)  # who reads them knows now which was a recording's last
        return Search(piece, self.rate)


@dataclass(frozen=True)
class Listener:
    """Transcribes windows of several pieces together."""

    runtime: AnyRuntime
    loader: Loader
    rules: AnyRules
    watch: Stopwatch
    care: Care
    spoken: Languages
    cut_short: set[int]  # numbers of recordings

    def listen(self, batch: list[Search]) -> None:
        """Transcribe the next window of each piece."""
        windows = [search.window for search in batch]
        with self.watch.timing("features"):
            features = self.loader.features([window.samples for window in windows])
        with self.watch.timing("decoding"):
            rows = self._rows(features, windows)
        if isinstance(self.rules, Rules):
            found = zip(windows, self.rules.cut_short(features, rows), strict=True)
            self.cut_short.update(window.recording for window, reached in found if reached)
        codec = self.loader.codec
        for search, ids in zip(batch, rows, strict=True):
            if self.rules.times:
                search.take(ids, codec)
            else:
                search.text(codec.decode(ids))

    def _rows(self, features: Any, windows: list[Piece]) -> list[list[int]]:
        """The tokens of each window; none where nobody said them."""
        plain = not (self.care.wanted or self.spoken.open)
        if plain or not isinstance(self.rules, Rules) or isinstance(self.rules, BeamRules):
            return self.rules.read(self.runtime, features)
        codec = self.loader.codec
        question = Question(codec.no_speech if self.care.no_speech is not None else None, self.spoken.question)
        decoding = Decoding(self.runtime, self.rules, codec.decode, self.care, question)
        known = [self.spoken.token(window.recording) for window in windows]
        found = decoding.windows(features, [window.samples for window in windows], known)
        for window, one in zip(windows, found, strict=True):
            if one.start.language is not None and one.ids and not self.care.silent(one):
                self.spoken.detected.setdefault(window.recording, one.start)
        return [[] if self.care.silent(one) else one.ids for one in found]
