"""Lists as long as corpora are: utterances made when they are asked for, memory that does not grow with them."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from support.feeding import TEXTS, noise, write_noises
from support.list_files import write_list

from whisperq.config import Source
from whisperq.data.batches import require_texts
from whisperq.data.lists import read
from whisperq.data.sources import read_all
from whisperq.errors import InputError

LINES = 1_000_000

MEASURED = """
import json, re, resource, sys
from support.feeding import CODEC, make_feed, run

def now() -> float:
    "MB"
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 2**20

run(make_feed(sys.argv[2]), 2)  # what every run needs is there
before = now()
feed = make_feed(sys.argv[1], pack=True, batch_size=8, max_label_wer=50.0)
steps = run(feed, 3)
position = {"epoch": 1, "window": 100_000, "taken": 0}
steps += run(feed, 3, position)
print(json.dumps({
    # At its peak, of this program alone: getrusage would count the process that it was forked from.
    "megabytes": int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**10 - before,
    "at the end": now() - before,
    "lines": len(feed.group.utterances),
    "windows": feed.epoch_size,
    "dropped": feed.dropped,
    "utterances": [s.utterances for s in steps],
    "padding": 1 - sum(s.audio_seconds for s in steps) / sum(s.window_seconds for s in steps),
}))
"""


def write_long_list(folder: Path) -> Path:
    """Segments of four recordings of 100 s; every fourth label is wrong."""
    for i in range(4):
        soundfile.write(folder / f"f{i}.wav", noise(i, 100.0), 16000)
    with open(folder / "long.jsonl", "w") as file:
        for i in range(LINES):
            file.write(
                f'{{"audio_filepath": "f{i % 4}.wav", "offset": {i // 4 % 9900 / 100}, "duration": 0.2{i % 5}, '
                f'"text": "{TEXTS[i % 4]}", "speaker": "s{i % 977}", "id": "u{i}", '
                f'"label_wer": {0.9 * (i % 4 == 3)}}}\n'
            )
    return folder / "long.jsonl"


@pytest.mark.slow
def test_a_million_lines(tmp_path):
    paths = write_long_list(tmp_path), write_noises(tmp_path, 8)
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    print(found)
    assert found["lines"] == LINES and found["dropped"] == {"label WER above 50 %": LINES // 4}
    assert 0.75 * LINES / 5 < found["windows"] < 0.75 * LINES / 3
    assert all(8 <= count <= 32 for count in found["utterances"]) and found["padding"] < 0.5
    assert found["megabytes"] < 300


def test_slices_and_negative_numbers_are_those_of_a_tuple(tmp_path):
    group = read_all([Source(path=str(write_noises(tmp_path, n, name))) for n, name in ((5, "a"), (3, "b"))])
    lazy, names = group.utterances, [*(f"a{i}" for i in range(5)), *(f"b{i}" for i in range(3))]
    assert [u.id for u in lazy] == names and len(lazy) == 8
    for part in (slice(None, 6), slice(2, None, 2), slice(None, None, -1), slice(3, 3)):
        assert [u.id for u in lazy[part]] == names[part] and len(lazy[part]) == len(names[part])
    assert lazy[-1].id == "b2" and lazy[2:][1].id == "a3" and lazy[4:][:2][1].id == "b0"
    for wrong in (8, -9):
        with pytest.raises(IndexError):
            lazy[wrong]


def test_a_copy_in_another_process_reads_the_same(tmp_path):
    group = read_all([Source(path=str(write_noises(tmp_path, 4)))])
    first = list(group.utterances)
    assert list(pickle.loads(pickle.dumps(group)).utterances) == first


def test_csv_rows_of_several_lines_are_found_again(tmp_path):
    write_list(tmp_path, {})
    rows = 'file_name,text,id\r\na.wav,"one\r\ntwo, ""three""",x\r\n\r\nb.wav,\u2028four,y\nb.wav'
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    found = read(Source(path=str(tmp_path))).utterances
    assert [(u.id, u.text) for u in found] == [("x", 'one\r\ntwo, "three"'), ("y", "\u2028four"), ("b-0", None)]
    assert [u.origin.split()[-1] for u in found] == ["3", "5", "6"]


def test_a_list_that_changes_meanwhile_is_refused_not_misread(tmp_path):
    path = write_noises(tmp_path, 5)
    lines = path.read_text().splitlines(keepends=True)
    for content in ("".join(reversed(lines)), "".join(lines[1:]), "".join(lines).replace("two", "ten")):
        path.write_text("".join(lines))
        utterances = read(Source(path=str(path))).utterances
        path.write_text(content)
        with pytest.raises(InputError, match=r"train\.jsonl has changed since it was first read"):
            list(utterances)
    path.write_text("".join(lines))
    utterances = read(Source(path=str(path))).utterances
    path.unlink()
    with pytest.raises(InputError, match=r"train\.jsonl cannot be read"):
        list(utterances)


def test_a_missing_text_is_found_without_reading_all(tmp_path):
    path = write_noises(tmp_path, 6, text=["a", "", "b", None, "c", None])
    group = read_all([Source(path=str(path), limit=3), Source(path=str(path))])
    with pytest.raises(InputError, match=r"train\.jsonl line 4 has no text, which scoring needs"):
        require_texts(group.utterances, "scoring")
    require_texts(group.utterances[:3], "scoring")
    require_texts(list(group.lists[0].utterances), "scoring")


def test_an_odd_label_wer_is_a_bad_line(tmp_path):
    for value in ("much", -1, True):
        path = write_noises(tmp_path, 2, label_wer=[0.5, value])
        with pytest.raises(InputError, match=r"line 2: the label_wer .* is no number of at least 0"):
            read(Source(path=str(path)))
        assert read(Source(path=str(path)), skip_bad=True).bad == 1


def test_equal_hashes_alone_make_no_second_use(tmp_path, monkeypatch):
    monkeypatch.setattr("whisperq.data.utterance_ids.hash", lambda text: 1, raising=False)
    path = str(write_noises(tmp_path, 4, id=["a", "b", "a", "c"]))
    with pytest.raises(InputError, match=r"line 3 .*the id a is already that of .* line 1"):
        read(Source(path=path))
    found = read(Source(path=path), skip_bad=True)
    assert ([u.id for u in found.utterances], found.bad) == (["a", "b", "c"], 1)
