"""One artifact in another's place: no moment without one, no leftovers, and no writer in another's way."""

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from conftest import DIGITS, sample_lines
from support.processes import Job

from whisperq import artifact, publishing
from whisperq.batch.evaluation import Transcribed
from whisperq.cli.failing import explained
from whisperq.errors import UsageError
from whisperq.jobs.journal import appending


def write(out: Path, text: str = "first", force: bool = False) -> artifact.Artifact:
    with artifact.create(out, "calibration", "calibrate", {"text": text}, {}, force) as draft:
        (draft.folder / "ranges.json").write_text(text)
    return artifact.load(out)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=["exchanged", "in two steps"])
def way(request, monkeypatch) -> str:
    """As the system does it, and as one without renameat2 would."""
    if request.param == "in two steps":
        monkeypatch.setattr(publishing, "exchange", lambda one, other: False)
    return request.param


def test_there_is_an_artifact_at_every_moment(tmp_path):
    write(tmp_path / "out")
    if not publishing.exchange(tmp_path / "out", tmp_path / "out"):
        pytest.skip("this system cannot exchange two names")
    over, missed = threading.Event(), []

    def look() -> None:
        while not over.is_set():
            missed.extend([1] if not (tmp_path / "out").is_dir() else [])

    watching = threading.Thread(target=look)
    watching.start()
    for number in range(30):
        write(tmp_path / "out", str(number), force=True)
    over.set()
    watching.join()
    assert not missed and names(tmp_path) == ["out"] and artifact.load(tmp_path / "out").config == {"text": "29"}


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from whisperq import artifact, publishing
left = int(sys.argv[2])
def counted(operation):
    def call(*arguments, **options):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return operation(*arguments, **options)
    return call
with artifact.create(Path(sys.argv[1]), "calibration", "calibrate", {"text": "second"}, {}, force=True) as draft:
    (draft.folder / "ranges.json").write_text("second")
    publishing.exchange = lambda one, other: False
    Path.rename, shutil.rmtree = counted(Path.rename), counted(shutil.rmtree)
"""
# Before which of its operations a writer in two steps is killed, and what is there when somebody comes again.
OPERATIONS = {0: "first", 1: "first", 2: "first", 3: "second", 4: "second", 5: "second"}


@pytest.mark.parametrize("operation, left", OPERATIONS.items())
def test_a_kill_leaves_the_old_or_the_new_and_the_next_run_clears_up(operation, left, tmp_path):
    write(tmp_path / "out")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), str(operation)])
    assert killed.returncode == -signal.SIGKILL
    assert (len(names(tmp_path)) > 1) == (operation != 5)
    with pytest.raises(artifact.Finished):
        write(tmp_path / "out", left)
    assert names(tmp_path) == ["out"] and artifact.load(tmp_path / "out").config == {"text": left}


def test_what_living_processes_and_other_hosts_write_is_left_alone(tmp_path):
    write(tmp_path / "out")
    host = socket.gethostname()
    with subprocess.Popen(["sleep", "60"]) as living:
        kept = [f".out.partial-{host}-{living.pid}", ".out.partial-elsewhere-7", f".other.partial-{host}-999999999"]
        for name in [*kept, f".out.partial-{host}-999999999", f".out.replaced-{host}-999999999"]:
            (tmp_path / name).mkdir()
        with pytest.raises(artifact.Finished):
            write(tmp_path / "out")
        assert names(tmp_path) == sorted([*kept, "out"])
        living.kill()
        os.waitid(os.P_PID, living.pid, os.WEXITED | os.WNOWAIT)  # ended, and its parent has not looked yet
        with pytest.raises(artifact.Finished):
            write(tmp_path / "out")
        assert names(tmp_path) == sorted([*kept[1:], "out"])


def write_often(out: Path, text: str, in_two_steps: bool) -> None:
    if in_two_steps:
        publishing.exchange = lambda one, other: False
    for number in range(15):
        write_anyhow(out, f"{text} {number}")


def write_anyhow(out: Path, text: str) -> None:
    with artifact.create(out, "calibration", "calibrate", {"text": text}, {}, force=True) as draft:
        (draft.folder / "ranges.json").write_text(text)


@pytest.mark.parametrize("in_two_steps", [False, True])
def test_writers_that_force_their_way_do_not_collide(in_two_steps, tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=write_often, args=(tmp_path / "out", t, in_two_steps)) for t in ("one", "two", "three")
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert names(tmp_path) == ["out"] and artifact.load(tmp_path / "out").config["text"].endswith("14")


def by_another_process(out: Path) -> None:
    job = multiprocessing.get_context("fork").Process(target=write, args=(out,))
    job.start()
    job.join(60)
    assert job.exitcode == 0


def test_who_comes_second_without_force_keeps_what_the_first_made(tmp_path):
    with artifact.create(tmp_path / "out", "calibration", "calibrate", {"text": "first"}, {}) as draft:
        (draft.folder / "ranges.json").write_text("written twice")
        by_another_process(tmp_path / "out")
    assert (tmp_path / "out" / "ranges.json").read_text() == "first"
    with pytest.raises(UsageError, match="already holds another result"):
        with artifact.create(tmp_path / "other", "calibration", "calibrate", {"text": "second"}, {}) as draft:
            by_another_process(tmp_path / "other")
    assert names(tmp_path) == ["other", "out"] and artifact.load(tmp_path / "other").config == {"text": "first"}


@pytest.mark.parametrize("filled", [False, True])
def test_a_link_stays_and_what_it_names_is_filled(filled, way, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    if filled:
        write(tmp_path / "out", "before")
    write(tmp_path / "out", "first", force=filled)
    assert (tmp_path / "out").is_symlink() and artifact.load(tmp_path / "disk").config == {"text": "first"}
    assert names(tmp_path) == ["disk", "out"]


DANGLING = (
    "init-student",
    "distill",
    "calibrate",
    "quantize",
    "eval --model student",
    "pseudo-label",
    "export --model gemm-w8a8",
)


@pytest.mark.parametrize("command", [*DANGLING, "calibrate --dry-run"])
def test_a_link_to_nothing_is_refused_before_the_work(command, copied_run, invoke, monkeypatch):
    Path("link").symlink_to("nowhere/at/all")
    if "dry" not in command:  # nothing is loaded for it
        monkeypatch.setattr("torch.nn.Module.load_state_dict", lambda *_, **__: pytest.fail("the work has begun"))
    result = invoke(*command.split(), "--out", "link")
    assert result.exit_code == 2 and "link is a link to nowhere/at/all, which is not there" in result.stderr, (
        result.output
    )
    assert Path("link").is_symlink() and not list(Path().glob(".link*"))


def test_the_root_of_a_file_system_is_refused_before_the_work():
    with pytest.raises(UsageError, match="/proc is where a file system is mounted"):
        write(Path("/proc"))


def test_a_full_disk_is_told_by_the_place_that_is_full(monkeypatch, tmp_path, capsys):
    """Of a copy's two names that of the new file; of lines that are kept their folder."""
    with pytest.raises(typer.Exit):
        explained(OSError(errno.ENOSPC, "No space left on device", "source.json", None, "made.json"))
    assert capsys.readouterr().err == "whisperq: No space left on device: made.json\n"
    with appending(tmp_path / "heard-0.jsonl", Transcribed) as keep:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(OSError) as error:
            keep([Transcribed("a", 1, "word")])
    assert error.value.filename == str(tmp_path)


@pytest.mark.parametrize("out", [".", "..", "sub/.."])
def test_a_folder_that_cannot_get_another_name_is_refused_as_such(out):
    with pytest.raises(UsageError, match="has no name that a result could get"):
        write(Path(out))


def test_a_transcript_fills_what_a_link_names(tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    recording = sample_lines("test", 1)[0]["audio_filepath"]
    command = ("transcribe", recording, "--model", DIGITS / "teacher", "--out", "link")
    Path("link").symlink_to("elsewhere.txt")
    done = invoke(*command)
    assert done.exit_code == 2 and "link is a link to elsewhere.txt, which is not there" in done.stderr
    Path("elsewhere.txt").touch()
    assert invoke(*command).exit_code == 2
    assert invoke(*command, "--force").exit_code == 0
    assert Path("link").is_symlink() and Path("elsewhere.txt").read_text()


@pytest.mark.parametrize("command", ["init-student", "calibrate", "quantize", "quantize --recipe paper"])
def test_a_full_disk_is_one_sentence(command, copied_run):
    """The system's own limit on a file's size stands in for a full disk: the write itself fails."""
    job = Job(copied_run.parent, *command.split(), "--out", "made", environment={"TEST_FILE_LIMIT": "4000"})
    assert job.exit_code() == 1, job.said
    assert "whisperq: File too large: " in job.said and "made" in job.said.splitlines()[-1], job.said
    assert "unexpected" not in job.said and not list(copied_run.parent.glob(".made*"))
