"""Compiled kernels: loaded where they are whole and ours, compiled again where not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from whisperq import disk
from whisperq.native import build, places

# Quick, and says each time that it was called.
COMPILER = """#!/bin/sh
echo called >> "$(dirname "$0")/calls"
for last; do :; done
echo 'int multiplies(void) { return 1; }' | cc -shared -fPIC -o "$last" -x c -
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where the kernels will lie; tmp_path/calls counts the compiler's."""
    (tmp_path / "c++").write_text(COMPILER)
    (tmp_path / "c++").chmod(0o755)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv(places.SHARED, "")
    monkeypatch.setattr(places.atexit, "register", lambda *_: None)
    build.library.cache_clear()
    yield tmp_path / "cache" / "whisperq" / "kernels"
    build.library.cache_clear()


def load(calls: int, folder: Path) -> Path:
    """Load as a new process would; what is loaded works and lies in the folder."""
    build.library.cache_clear()
    library = build.library()
    assert library.multiplies() == 1
    path = Path(library._name)
    assert folder in path.parents and len(calls_of(folder).read_text().splitlines()) == calls
    return path


def calls_of(folder: Path) -> Path:
    return next(parent / "calls" for parent in folder.parents if (parent / "c++").exists())


def test_it_is_compiled_once_and_lies_where_nobody_else_writes(cache, monkeypatch):
    before = os.umask(0)
    try:
        path = load(1, cache)
    finally:
        os.umask(before)
    assert load(1, cache) == path and [p.name for p in cache.iterdir()] == [path.name]
    assert (cache.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o700)


def rewritten(path: Path, content: bytes) -> None:
    """As another file of the same name: this process has mapped the old one."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").chmod(0o700)
    path.with_suffix(".new").rename(path)


def cut(path: Path) -> None:
    rewritten(path, path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    rewritten(path, b"")


def changed(path: Path) -> None:
    content = path.read_bytes()
    rewritten(path, content[:-1] + bytes([content[-1] ^ 1]))


def opened_to_others(path: Path) -> None:
    path.chmod(0o777)


def given_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.parametrize("damage", [cut, emptied, changed, opened_to_others, given_away, linked])
def test_a_library_that_is_not_what_was_compiled_is_compiled_again(damage, cache):
    damage(load(1, cache))
    load(2, cache)
    load(2, cache)


@pytest.mark.parametrize("damage", [opened_to_others, given_away, linked])
def test_a_folder_that_is_not_ours_alone_is_not_used(damage, cache):
    path = load(1, cache)
    damage(cache)
    other = load(2, calls_of(cache).parent / "temporary")
    assert other.name != path or not cache.is_dir()
    assert oct(other.parent.stat().st_mode & 0o777) == "0o700"


def test_a_world_writable_cache_home_gets_a_folder_of_ours(cache):
    home = cache.parents[1]
    home.mkdir()
    home.chmod(0o777)
    assert load(1, cache).parent.stat().st_mode & 0o077 == 0


def test_a_temporary_folder_that_somebody_else_made_first_is_not_used(cache):
    cache.parents[1].write_text("a file where the cache should be")
    taken = places._folder_of(os.getpid())
    taken.mkdir()
    taken.chmod(0o777)
    assert taken not in load(1, calls_of(cache).parent / "temporary").parents


COMMAND = """
import subprocess, sys
from whisperq.native.build import library
print(library()._name, flush=True)
if len(sys.argv) > 1:
    print(subprocess.run([sys.executable, "-c", sys.argv[1]], capture_output=True, text=True).stdout, end="")
"""


@pytest.mark.slow
def test_without_a_cache_the_processes_of_a_command_share_one_folder_and_leave_none(cache, tmp_path):
    cache.parents[1].write_text("a file where the cache should be")
    left = tmp_path / "temporary" / f"{places.NAME}-{os.geteuid()}-999999999"  # by one that was killed
    left.mkdir(mode=0o700)
    environment = {k: v for k, v in os.environ.items() if k != places.SHARED} | {"TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", COMMAND, COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    first, second = done.stdout.split()
    assert first == second and str(tmp_path / "temporary") in first, done.stderr
    assert calls_of(cache).read_text() == "called\n" and not list((tmp_path / "temporary").iterdir())


def test_doctor_says_why_nothing_is_kept(cache, invoke):
    cache.mkdir(parents=True, mode=0o700)
    assert "each command compiles" not in invoke("doctor").stdout
    cache.chmod(0o777)
    found = invoke("doctor", "--json")
    assert "can be written by others: each command compiles its own kernels" in found.stdout, found.stdout
    assert f"chmod 700 {cache}" in found.stdout and found.exit_code == 0


def test_a_user_without_a_home_has_a_cache(tmp_path, monkeypatch):
    """As containers have them that run as any number; pathlib knows no home there and raises RuntimeError."""
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(disk.tempfile, "tempdir", str(tmp_path))
    assert places.kept() == tmp_path / ".cache" / "whisperq" / "kernels"
    assert disk.hub_cache() == Path("~/.cache/huggingface/hub")  # as huggingface_hub has it
