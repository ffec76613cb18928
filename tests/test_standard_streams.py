"""Standard output of an encoding that lacks the characters, and standard streams that are closed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whisperq.data.timed_words import Segment, Transcript
from whisperq.results.subtitles import as_json

TEXT = "Größe 日本 \U0001f600"
# In the place of the command line, which takes seconds, comes what it prints.
PROGRAM = """
import sys, types
sys.modules['whisperq.cli.app'] = types.SimpleNamespace(app=lambda: print(sys.argv[1], end=""))
from whisperq.__main__ import main
main()
"""


def printed(text: str, encoding: str, program: str = PROGRAM) -> str:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(encoding.partition(":")[0])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:surrogateescape", "utf-8"])
def test_a_transcript_is_escaped_where_the_encoding_lacks_its_characters(encoding):
    plain = printed(TEXT, encoding)
    assert plain == TEXT if encoding == "utf-8" else plain.endswith("\\u65e5\\u672c \\ud83d\\ude00")
    assert plain.startswith("Größe" if "ascii" not in encoding else "Gr\\u00f6\\u00dfe")
    content = as_json([Transcript("日.wav", 1.0, (Segment(0.0, 1.0, TEXT),))], {"model": "größe"})
    assert json.loads(printed(content, encoding)) == json.loads(content)


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_is_as_the_null_device(closed, tmp_path):
    """And no file that is opened later gets its number."""
    inside = "[os.write(number, b'x') for number in (1, 2)], sys.stdin.read(), print('a'), print('b', file=sys.stderr)"
    program = PROGRAM.replace("import sys", "import os, sys").replace('print(sys.argv[1], end="")', f"({inside})")
    script = f"{program}\nassert open('file', 'w').fileno() > 2\nopen('done', 'w').close()\n"
    command = f'exec "{sys.executable}" -c "$SCRIPT" {closed}>&-'
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "SCRIPT": script, "PYTHONPATH": root}
    done = subprocess.run(
        command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0 and (tmp_path / "done").exists(), done
    assert done.stdout == ("" if closed == 1 else "xa\n") and "Traceback" not in done.stderr
