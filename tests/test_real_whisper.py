"""OpenAI's own weights on read speech, against transformers and faster-whisper: features, tokens, times, word errors.

The environment variables WHISPERQ_WHISPER and WHISPERQ_SPEECH name the weights and the speech; see real.py.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Invoke, write_lines
from support.real import dev_utterances, whisper_folder
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from whisperq.data.utterance import Utterance
from whisperq.options import Execution
from whisperq.runtime.decoding import Rules, with_times
from whisperq.runtime.open import Opened, open_runtime
from whisperq.settings import Context

pytestmark = pytest.mark.slow

RATE, WINDOW_S = 16_000, 30.0
BATCH = 10


@dataclass(frozen=True)
class Counts:
    """Recordings that each is asked about: they take time."""

    ours: int
    stock: int  # transformers' generate
    peer: int  # faster-whisper
    timed: int


COUNTS = {"whisper-tiny.en": Counts(50, 50, 40, 8), "whisper-base": Counts(25, 4, 25, 3)}


@dataclass(frozen=True)
class Real:
    """One of OpenAI's models open in float32, with its hypotheses."""

    folder: Path
    counts: Counts
    opened: Opened
    utterances: list[Utterance]

    @property
    def languages(self) -> dict[str, str]:
        """What a model of many languages has to be told."""
        return {} if self.folder.name.endswith(".en") else {"language": "en", "task": "transcribe"}

    @cached_property
    def audio(self) -> list[np.ndarray]:
        return [self.opened.loader.audio(u) for u in self.utterances]

    @cached_property
    def features(self) -> torch.Tensor:
        return self.opened.loader.features(self.audio)

    @cached_property
    def tokens(self) -> list[list[int]]:
        """Ours, greedy and without times."""
        return self.read(self.opened.rules, self.counts.ours)

    @cached_property
    def timed(self) -> list[list[int]]:
        return self.read(with_times(self.opened.rules, self.opened.loader.codec), self.counts.timed)

    def read(self, rules: Rules, count: int) -> list[list[int]]:
        parts = self.features[:count].split(BATCH)
        return [row for part in parts for row in rules.read(self.opened.runtime, part)]

    @cached_property
    def stock(self) -> WhisperForConditionalGeneration:
        return WhisperForConditionalGeneration.from_pretrained(self.folder, dtype=torch.float32).eval()

    def generated(self, count: int, segments: list | None = None, **settings: bool) -> list[list[int]]:
        """transformers' greedy tokens, up to the end; with `return_segments` each recording's go to `segments`."""
        rows = []
        for part in self.features[:count].split(BATCH):
            found = self.stock.generate(part, num_beams=1, do_sample=False, **self.languages, **settings)
            if segments is not None:
                segments += found["segments"]
            rows += (found if segments is None else found["sequences"]).tolist()
        end = self.stock.generation_config.eos_token_id
        return [row[: row.index(end)] if end in row else row for row in rows]

    @cached_property
    def tokenizer(self) -> WhisperTokenizer:
        return WhisperTokenizer.from_pretrained(self.folder, **self.languages)


@pytest.fixture(scope="module", params=COUNTS)
def real(request: pytest.FixtureRequest) -> Iterator[Real]:
    folder, counts = whisper_folder(request.param), COUNTS[request.param]
    utterances = dev_utterances(counts.ours)
    torch.set_num_threads(2)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, 1)
        opened = stack.enter_context(open_runtime(folder, Execution(), Context(device="cpu")))
        yield Real(folder, counts, opened, utterances)


@pytest.fixture(scope="module")
def peer_texts(real: Real, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """faster-whisper's, from the same weights in CTranslate2's format, float32 and greedy."""
    converters = pytest.importorskip("ctranslate2.converters")
    faster_whisper = pytest.importorskip("faster_whisper")
    folder = tmp_path_factory.mktemp("peer") / "model"
    copied = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(real.folder), copy_files=copied).convert(str(folder), quantization="float32")
    model = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=2)
    settings = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": True}
    settings |= {"vad_filter": False, "condition_on_previous_text": False}
    transcribed = [model.transcribe(audio, **settings)[0] for audio in real.audio[: real.counts.peer]]
    return [" ".join(segment.text.strip() for segment in segments) for segments in transcribed]


def test_features_are_transformers(real: Real) -> None:
    extractor = WhisperFeatureExtractor.from_pretrained(real.folder)
    theirs = extractor(real.audio, sampling_rate=RATE, return_tensors="pt").input_features
    assert theirs.shape == (real.counts.ours, 80, 3000)
    torch.testing.assert_close(real.features, theirs, atol=1e-4, rtol=0)


def test_a_text_becomes_transformers_tokens(real: Real) -> None:
    """All references, as they are and in small letters, and the hypotheses, which have points and capitals."""
    codec = real.opened.loader.codec
    texts = [text for u in dev_utterances(93) for text in (u.text, u.text.lower())] + list(
        map(codec.decode, real.tokens)
    )
    assert [codec.encode(text) for text in texts] == real.tokenizer([f" {text}" for text in texts]).input_ids
    assert [codec.decode(codec.encode(text)) for text in texts] == texts


def test_greedy_tokens_are_those_of_generate(real: Real) -> None:
    theirs = real.generated(real.counts.stock)
    assert real.tokens[: real.counts.stock] == theirs
    texts = real.tokenizer.batch_decode(theirs, skip_special_tokens=True)
    assert [real.opened.loader.codec.decode(row) for row in theirs] == [text.strip() for text in texts]


def test_times_are_those_of_generate(real: Real) -> None:
    """Tokens under OpenAI's rules for times, and what segments they make."""
    codec, segments = real.opened.loader.codec, []
    assert real.opened.rules.knows_times
    assert real.timed == real.generated(real.counts.timed, segments, return_timestamps=True, return_segments=True)
    for row, theirs in zip(real.timed, segments, strict=True):
        ours = codec.segments(row, 0.0, WINDOW_S)
        words = [[i for i in segment["tokens"].tolist() if i not in codec.times] for segment in theirs]
        assert [s.text for s in ours] == [codec.decode(ids) for ids in words]
        assert [(s.start, s.end) for s in ours] == [pytest.approx((float(s["start"]), float(s["end"]))) for s in theirs]
    assert sum(len(theirs) > 1 for theirs in segments) > len(segments) / 2  # pauses are found, or this says little


def test_word_errors_are_faster_whispers(
    real: Real, peer_texts: list[str], invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its window is padded behind the logarithm, with another silence than OpenAI's: a few words come out otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    pairs = {"theirs": peer_texts, "ours": map(real.opened.loader.codec.decode, real.tokens)}
    for name, texts in pairs.items():
        pairs = zip(real.utterances, texts, strict=False)
        write_lines(tmp_path / f"{name}.jsonl", [{"id": u.id, "text": u.text, "pred_text": t} for u, t in pairs])
    done = invoke("compare", "theirs.jsonl", "ours.jsonl", "--common", "--normalizer", "english", "--json")
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["results"]["sets"].values()
    low, high = found["interval_95"]
    assert low <= 0 <= high
    assert found["utterances"] == real.counts.peer and found["normalizer"] == "english"
    assert found["wer_a"] < 0.15  # the peer transcribes well
    assert found["equal_hypotheses"] > found["utterances"] / 2
