"""m4a, webm and wma: read through an ffmpeg that is there, else told how to convert them."""

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from support.audio_files import encoded, tone, utterance

from whisperq.data.audio import audio_seconds, load_audio
from whisperq.data.recording import Recording
from whisperq.errors import InputError, ReadError

RATE = 16000
# How files begin, as their own specifications have it.
STARTS = {
    "m4a": b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00",
    "mp4": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00",
    "webm": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81",
    "wma": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    "aac": b"\xff\xf1\x60\x80\x5b\x7f\xfc\xdc\x00\x4c\x61\x76\x63\x36\x33\x2e",
    "amr": b"#!AMR\n<\x12\x03\xbdX\xf6\xb9\xe7\xcc\x8a",
}
# Stands in for ffmpeg: its source is one of the starts, then AU; what it was called with goes beside itself.
STAND_IN = """#!{python}
import json, os, sys
call = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(call) + "\\n")
name = call[call.index("-i") + 1]
assert name.startswith("file:/"), name
with open(name[len("file:"):], "rb") as file:
    content = file.read()[16:]
{rest}
os.write(1, content[:8] + b"\\xff" * 4 + content[12:])
"""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Puts a stand-in first on the PATH; `calls()` are those that it had."""
    folder, log = tmp_path / "bin", tmp_path / "calls"

    def install(rest: str = "") -> None:
        folder.mkdir(exist_ok=True)
        program = folder / "ffmpeg"
        program.write_text(STAND_IN.format(python=sys.executable, log=str(log), rest=rest))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    install.calls = lambda: [json.loads(text) for text in log.read_text().splitlines()]
    return install


SOUND = tone(440, 2.0)


def foreign(start: str) -> bytes:
    return STARTS[start] + encoded(SOUND, format="AU", subtype="PCM_16")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("embedded", [True, False])
def test_what_libsndfile_does_not_know_is_read_through_ffmpeg(tmp_path, ffmpeg, start, embedded):
    ffmpeg()
    (tmp_path / "a.bin").write_bytes(foreign(start))
    one = utterance(foreign(start) if embedded else str(tmp_path / "a.bin"))
    np.testing.assert_allclose(load_audio(one, RATE), SOUND, atol=1e-4)
    assert audio_seconds(one) == 2.0
    with Recording(one, RATE) as recording:
        np.testing.assert_allclose(recording.window(8000, 8000), SOUND[8000:16000], atol=1e-4)
    for call in ffmpeg.calls():
        assert "-nostdin" in call and call[call.index("-format_whitelist") + 1].startswith("mov,matroska,asf")
        assert call[call.index("-protocol_whitelist") + 1] == "file"


@pytest.mark.parametrize("name", ["-dash.m4a", "concat:a|b.m4a", "http:%03d.m4a", "two\nlines.m4a", "caf\udce9.m4a"])
def test_no_name_is_an_option_a_protocol_or_a_pattern(tmp_path, ffmpeg, monkeypatch, name):
    ffmpeg()
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(foreign("m4a"))
    assert len(load_audio(utterance(name), RATE)) == len(SOUND)
    assert ffmpeg.calls()[0].count(f"file:{tmp_path}/{name}") == 1


@pytest.mark.parametrize("embedded", [True, False])
def test_without_ffmpeg_the_line_that_converts_is_given(tmp_path, ffmpeg, embedded):
    (tmp_path / "my talk.m4a").write_bytes(foreign("m4a"))
    audio = foreign("m4a") if embedded else str(tmp_path / "my talk.m4a")
    with pytest.raises(InputError) as error:
        load_audio(utterance(audio), RATE)
    source = "IN" if embedded else f"'{tmp_path}/my talk.m4a'"
    assert "is MPEG-4 (m4a, mp4), which is read through ffmpeg" in str(error.value)
    assert str(error.value).endswith(f"ffmpeg -i {source} OUT.wav")


SAID = "[in#0/matroska @ 0x55e0] File ended prematurely"


@pytest.mark.parametrize("rest", ["sys.exit('no sense')", f"print({SAID!r}, file=sys.stderr)"])
def test_what_ffmpeg_complains_of_is_bad(ffmpeg, rest):
    ffmpeg(rest)
    words = "no sense" if "sense" in rest else "File ended prematurely"
    with pytest.raises(InputError, match=rf"line 3.*cannot be decoded \(ffmpeg: {words}\)$"):
        load_audio(utterance(foreign("webm")), RATE)


@pytest.mark.parametrize("rest", ["os.kill(os.getpid(), 9)", "sys.exit(255)", "sys.exit(256 - 28)"])
def test_an_ffmpeg_that_was_killed_or_had_no_room_says_nothing_of_the_recording(ffmpeg, rest):
    ffmpeg(rest)
    with pytest.raises(ReadError, match="No space left|Interrupted"):
        load_audio(utterance(foreign("wma")), RATE)
    assert len(ffmpeg.calls()) == 4
