"""Files and lists as other systems name and write them."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
import soundfile
from conftest import DIGITS, sample_lines, write_lines
from support.damage import refusal

from whisperq.data.lists import Source, read
from whisperq.errors import InputError

ODD = {
    "dash": "-dash.wav",
    "two lines": "two\nlines.wav",
    "Latin-1": os.fsdecode(b"caf\xe9.wav"),
    "escapes": "a\x1b[31m\tb.wav",
    "brackets": "[red]x[bold].wav",
}


def recording(folder: Path, name: str) -> dict:
    """The sample's first recording under this name."""
    entry = sample_lines("test", 1)[0]
    soundfile.write(folder / "sample.wav", *soundfile.read(entry["audio_filepath"]))
    os.rename(folder / "sample.wav", folder / name)
    return {"audio_filepath": name, "text": entry["text"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
@pytest.mark.parametrize("format", ["text", "json", "srt"])
def test_transcribe_takes_it(tmp_path, monkeypatch, invoke, name, format):
    monkeypatch.chdir(tmp_path)
    text = recording(tmp_path, name)["text"]
    recording(tmp_path, "plain.wav")
    files = [name] if format == "srt" else [name, "plain.wav"]
    done = invoke("transcribe", "--model", DIGITS / "teacher", "--format", format, "--out", "heard", *files)
    assert done.exit_code == 0, done.stderr
    written = (tmp_path / "heard").read_text("utf-8")
    if format == "json":
        named = json.loads(written)["files"][0]
        assert (os.path.normpath(named["audio_filepath"]), named["text"]) == (name, text)
    elif format == "text":
        first, second = written.splitlines()
        assert first.endswith(f"\t{text}") and second == f"plain.wav\t{text}"
    assert text in written


def test_an_option_that_is_misspelt_is_still_one(tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    recording(tmp_path, "--json")
    assert "No such option" in invoke("transcribe", "-gone.wav").stderr
    assert invoke("transcribe", "--model", "nowhere", "--json", "gone.wav").exit_code in (2, 3)


def test_lists_with_odd_names_are_evaluated(copied_run, workspace, invoke):
    lines = [recording(workspace, name) for name in ODD.values()]
    odd = write_lines(workspace / "odd.jsonl", lines)
    done = invoke("eval", "--model", "distilled", "--test", f"odd={odd}", "--json")
    assert done.exit_code == 0, done.stderr
    folder = Path(json.loads(done.stdout)["path"])
    lines = [json.loads(text) for text in (folder / "hypotheses" / "odd.jsonl").read_text("utf-8").splitlines()]
    assert {Path(entry["audio_filepath"]).name for entry in lines} == set(ODD.values())


LATIN_1 = "caf\udce9"  # how Python holds a byte that is no UTF-8


@pytest.mark.slow
def test_a_set_or_a_folder_may_have_a_name_that_is_no_utf_8(copied_run, workspace, digits, invoke):
    for options in ((), ("--out", f"{LATIN_1}-again")):
        done = invoke(
            "eval", "--model", "distilled", "--limit", "2", "--test", f"{LATIN_1}={digits / 'test.jsonl'}", *options
        )
        assert done.exit_code == 0, done.stderr
    os.rename(copied_run, workspace / LATIN_1)
    done = invoke("report", LATIN_1, "--out", "report", "--no-verify")
    assert done.exit_code == 0 and "warning" not in done.stderr, done.stderr


def test_where_the_libraries_take_utf_8_alone_it_is_one_sentence(workspace, invoke):
    done = invoke("init-student", "--out", LATIN_1)
    assert done.exit_code == 3 and "no UTF-8" in refusal(done) and "\\udce9" in refusal(done)
    assert not os.path.exists(LATIN_1)


def test_an_utterance_is_found_by_an_id_of_any_length(copied_run, workspace, invoke):
    name = "x" * 5000
    write_lines(workspace / "long.jsonl", [sample_lines("test", 1)[0] | {"id": name}])
    done = invoke("plot-attention", "--utterance", name, "--test", "long.jsonl", "--model", "distilled")
    assert done.exit_code == 0, done.stderr


FOUND = {
    "backslashes": ("part\\clip.wav", "part/clip.wav"),
    "backslashes and a dot": (".\\part\\clip.wav", "part/clip.wav"),
    "composed": (unicodedata.normalize("NFC", "café.wav"), unicodedata.normalize("NFD", "café.wav")),
    "decomposed": (unicodedata.normalize("NFD", "café.wav"), unicodedata.normalize("NFC", "café.wav")),
    "a backslash of its own": ("a\\b.wav", "a\\b.wav"),
}


@pytest.mark.parametrize("written, there", FOUND.values(), ids=FOUND)
def test_a_list_finds_files_as_other_systems_write_them(tmp_path, written, there):
    (tmp_path / "part").mkdir()
    recording(tmp_path, there)
    found = read(Source(path=str(write_lines(tmp_path / "a.jsonl", [{"audio_filepath": written, "text": "one"}]))))
    assert os.path.samefile(found.utterances[0].audio, tmp_path / there)
    assert "/" not in found.utterances[0].id and (found.utterances[0].id == "clip") == ("part" in written)


def test_a_drive_is_told(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"audio_filepath": "C:\\data\\a.wav", "text": "one"}])
    with pytest.raises(InputError, match=r"line 1 .*does not exist; it has a drive's letter: name it from the list's"):
        read(Source(path=str(path)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("encoding, told", [("latin-1", "ISO-8859-1"), ("cp1252", "ISO-8859-1"), ("utf-16", "UTF-16")])
def test_a_list_that_is_not_utf_8_says_how_to_convert_it(tmp_path, name, encoding, told):
    lines = '{"audio_filepath": "a.wav", "text": "un café"}\n' if name == "a.jsonl" else "file_name,text\na.wav,café\n"
    (tmp_path / name).write_bytes(lines.encode(encoding))
    with pytest.raises(InputError, match=rf"line \d, is not UTF-8 .*: iconv -f {told} -t UTF-8 .*{name} > NEW"):
        read(Source(path=str(tmp_path / name)))
