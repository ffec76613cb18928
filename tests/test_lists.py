import hashlib
import json
import os
from pathlib import Path

import pytest
from support.list_files import tone, write_list

from whisperq.config import Source
from whisperq.data.audio import load_audio
from whisperq.data.lists import read
from whisperq.errors import InputError

GOOD = {"audio_filepath": "a.wav", "duration": 0.5, "text": "hello"}


def test_an_utterance_list_is_read_relative_to_its_own_folder(tmp_path, monkeypatch):
    segment = {"audio_filepath": "b.wav", "offset": 0.1, "duration": 0.3, "id": 7, "speaker": "x", "k": 1}
    path = write_list(tmp_path / "lists", GOOD, "", segment, {"audio_filepath": "../c.flac"})
    tone(tmp_path / "c.flac")
    monkeypatch.chdir(tmp_path)
    result = read(Source(path=os.path.join("lists", "dev.jsonl")))
    first, second, third = result.utterances
    assert (first.id, first.text, first.speaker) == ("a", "hello", None)
    assert (first.duration, first.offset) == (0.5, 0.0)
    assert (second.id, second.text, second.speaker) == ("7", None, "x")
    assert (second.duration, second.offset) == (0.3, 0.1)
    assert (third.id, third.text, third.duration) == ("c", None, None)
    assert second.origin == "lists/dev.jsonl line 3"
    assert result.bad == 0
    assert [len(load_audio(u, 8000)) for u in result.utterances] == [4000, 2400, 4000]
    assert result.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_default_ids_tell_segments_and_folders_apart(tmp_path):
    tone(tmp_path / "deep" / "b.wav")
    segments = [{"audio_filepath": "a.wav", "offset": offset, "duration": 0.1} for offset in (0, 0.25)]
    twins = [{"audio_filepath": "b.wav"}, {"audio_filepath": "deep/b.wav"}]
    result = read(Source(path=write_list(tmp_path, *segments, *twins)))
    assert [u.id for u in result.utterances] == ["a-0", "a-0.25", "b.wav", "deep/b.wav"]


def test_line_separators_and_byte_order_marks_do_not_break_lines(tmp_path):
    line = json.dumps({**GOOD, "text": "one\u2028two"}, ensure_ascii=False)
    path = write_list(tmp_path, "\ufeff" + line + "\r")
    assert read(Source(path=path)).utterances[0].text == "one\u2028two"


BAD_LINES = {
    "not json": ('{"audio_filepath": "b.wav"', "is not JSON"),
    "no object": ([1, 2], "is not a JSON object"),
    "no file": ({"text": "hello"}, "lacks audio_filepath"),
    "missing file": ({"audio_filepath": "gone.wav"}, "gone.wav does not exist"),
    "a folder": ({"audio_filepath": "."}, "does not exist"),
    "words for a duration": ({"audio_filepath": "b.wav", "duration": "long"}, "(b.wav): the duration 'long'"),
    "true for a duration": ({"audio_filepath": "b.wav", "duration": True}, "(b.wav): the duration True"),
    "negative duration": ({"audio_filepath": "b.wav", "duration": -1}, "(b.wav): the duration -1"),
    "zero duration": ({"audio_filepath": "b.wav", "duration": 0}, "(b.wav): a duration of 0"),
    "NaN duration": ('{"audio_filepath": "b.wav", "duration": NaN}', "(b.wav): the duration nan"),
    "huge duration": ({"audio_filepath": "b.wav", "duration": 10**400}, "(b.wav): the duration 1"),
    "negative offset": ({"audio_filepath": "b.wav", "offset": -0.5}, "(b.wav): the offset -0.5"),
    "infinite offset": ('{"audio_filepath": "b.wav", "offset": Infinity}', "(b.wav): the offset inf"),
    "text of numbers": ({"audio_filepath": "b.wav", "text": [1]}, "(b.wav): the text [1]"),
    "duplicate id": ({"audio_filepath": "b.wav", "id": "a"}, "b.wav): the id a is already that of"),
}


@pytest.mark.parametrize("line, sentence", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_one_sentence_or_counted(tmp_path, line, sentence):
    path = write_list(tmp_path, GOOD, line)
    with pytest.raises(InputError) as error:
        read(Source(path=path))
    message = str(error.value)
    assert message.startswith(f"{path} line 2")
    assert sentence in message
    assert "\n" not in message
    skipped = read(Source(path=path), skip_bad=True)
    assert (len(skipped.utterances), skipped.bad) == (1, 1)


def test_a_bad_line_behind_the_limit_is_not_met(tmp_path):
    path = write_list(tmp_path, GOOD, {**GOOD, "audio_filepath": "b.wav"}, "{")
    assert [u.id for u in read(Source(path=path, limit=2)).utterances] == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{\n[]\n", b"\xff\xfe\x00\x81"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_list_without_a_usable_line_is_refused_even_when_skipping(tmp_path, content, skip_bad):
    (tmp_path / "dev.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"dev\.jsonl"):
        read(Source(path=str(tmp_path / "dev.jsonl")), skip_bad)


def test_no_usable_line_says_how_many_were_skipped(tmp_path):
    path = write_list(tmp_path, "{", "[]")
    with pytest.raises(InputError, match=r"no usable line \(2 skipped"):
        read(Source(path=path), skip_bad=True)


def test_sources_that_name_nothing_or_too_much(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        read(Source(path=str(tmp_path / "none.jsonl")), skip_bad=True)
    with pytest.raises(InputError, match="a path or a data set"):
        read(Source())
    with pytest.raises(InputError, match="not both"):
        read(Source(path="a", dataset="b"))
    with pytest.raises(InputError, match="neither metadata"):
        read(Source(path=str(tmp_path)))


def test_a_folder_with_metadata_csv(tmp_path):
    tone(tmp_path / "clips" / "a.wav")
    tone(tmp_path / "clips" / "b.wav")
    rows = 'file_name,transcription,duration\nclips/a.wav,"one, two",0.5\nclips/b.wav,three,\n'
    (tmp_path / "metadata.csv").write_text(rows, encoding="utf-8")
    for source in (Source(path=str(tmp_path)), Source(dataset=str(tmp_path))):
        found = read(source).utterances
        assert [(u.id, u.text, u.duration) for u in found] == [("a", "one, two", 0.5), ("b", "three", None)]
        assert found[1].origin.endswith("metadata.csv line 3")
    with pytest.raises(InputError, match=r"metadata\.csv line 2 \(clips/a\.wav\) lacks words"):
        read(Source(path=str(tmp_path), text_column="words"))


def test_a_folder_with_metadata_jsonl_and_a_chosen_text_column(tmp_path):
    line = {"file_name": "a.wav", "sentence": "guessed", "raw": "chosen"}
    path = write_list(tmp_path, line, name="metadata.jsonl")
    assert read(Source(path=str(tmp_path))).utterances[0].text == "guessed"
    assert read(Source(path=str(tmp_path), text_column="raw")).utterances[0].text == "chosen"
    # An utterance list has one word for a reference; what else it holds is no reference.
    os.rename(path, tmp_path / "dev.jsonl")
    assert read(Source(path=str(tmp_path / "dev.jsonl"))).utterances[0].text is None


SPEECH = os.environ.get("WHISPERQ_SPEECH")


@pytest.mark.skipif(not SPEECH, reason="WHISPERQ_SPEECH does not name a folder of real speech")
def test_real_lists():
    digits = read(Source(path=os.path.join(SPEECH, "digits.jsonl")))
    assert (len(digits.utterances), digits.bad) == (3000, 0)
    assert len({u.text for u in digits.utterances}) == 10
    assert len({u.speaker for u in digits.utterances}) == 6
    speech = read(Source(path=os.path.join(SPEECH, "librispeech_dev.jsonl"))).utterances
    assert len(speech) == 93
    opus = next(u for u in speech if u.audio.endswith(".opus"))
    assert len(load_audio(opus, 16000)) / 16000 == pytest.approx(opus.duration, abs=0.05)


@pytest.mark.parametrize("name", ["dev.jsonl", "metadata.csv"])
def test_what_is_not_utf8_is_told_with_its_line(name, tmp_path):
    tone(tmp_path / "a.wav")
    good = json.dumps(GOOD) if name == "dev.jsonl" else "file_name,text\na.wav,hello"
    path = tmp_path / name
    path.write_bytes(f"{good}\n".encode() + "café".encode("latin-1") + b"\n")
    number = 2 if name == "dev.jsonl" else 3
    with pytest.raises(InputError, match=f"{name}, line {number}, is not UTF-8"):
        read(Source(path=str(path)))
