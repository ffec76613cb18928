"""What a teacher says of each window, kept on disk: the same losses, other keys for other teachers, kills, bounds."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_command
from support.feeding import change_lines, make_feed, write_noises
from support.tiny import gated_model
from support.training_batch import batch, gradients

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.preconditions import check_teacher_cache
from whisperq.training.loop import Distiller
from whisperq.training.teacher_cache import TeacherCache
from whisperq.training_options import DistillConfig


def make_cache(folder: Path, limit: float = 1e9, **decides) -> TeacherCache:
    return TeacherCache(folder, limit, **{"teacher": "a", "dtype": "bfloat16"} | decides)


def some(seed: int = 1) -> torch.Tensor:
    return torch.randn(37, 24, generator=torch.Generator().manual_seed(seed)).bfloat16()


def same(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and one.dtype == other.dtype and torch.equal(one, other)


def test_an_entry_comes_back_as_it_was_put(tmp_path):
    one = some()
    make_cache(tmp_path).put("w", one)
    again = make_cache(tmp_path)
    assert same(again.get("w"), one) and again.get("v") is None


@pytest.mark.parametrize("other", [{"teacher": "b"}, {"dtype": "float32"}])
def test_another_teacher_or_number_format_has_other_entries(tmp_path, other):
    make_cache(tmp_path).put("w", some())
    assert make_cache(tmp_path, **other).get("w") is None
    assert make_cache(tmp_path).get("w") is not None


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "digest"])
def test_a_broken_file_is_made_again(tmp_path, damage):
    cache = make_cache(tmp_path)
    cache.put("w", some())
    (file,) = tmp_path.glob("*/*.taught")
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[-3] ^= 4
    if damage == "digest":
        content[5] ^= 1
    file.write_bytes({"cut": content[:-7], "empty": b""}.get(damage, bytes(content)))
    assert cache.get("w") is None
    cache.put("w", some())
    assert same(cache.get("w"), some())


def test_the_folder_never_holds_more_than_its_bound(tmp_path):
    make_cache(tmp_path / "one").put("w", some())
    (file,) = (tmp_path / "one").glob("*/*.taught")
    size = file.stat().st_size
    several = [make_cache(tmp_path / "few", limit=3.5 * size) for _ in range(2)]  # as of two processes
    for number in range(8):
        several[number % 2].put(str(number), some())
    held = [path.stat().st_size for path in (tmp_path / "few").glob("*/*.taught")]
    assert len(held) == 3 and sum(held) <= 3.5 * size and all(cache.full for cache in several)
    assert same(several[0].get("1"), some())


def write_without_end(folder: Path) -> None:
    cache, entry = make_cache(folder), some()
    for number in range(100_000):
        cache.put(str(number), entry)


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_broken(tmp_path):
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        process = context.Process(target=write_without_end, args=(tmp_path,))
        process.start()
        time.sleep(0.15)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    (partial := tmp_path / "ab" / f".x.taught.partial-{os.uname().nodename}-{process.pid}").parent.mkdir(exist_ok=True)
    partial.write_bytes(b"half")
    cache = make_cache(tmp_path)
    held = list(tmp_path.glob("*/*.taught"))
    assert held and all(same(cache.get(str(n)), some()) for n in range(3))
    assert not list(tmp_path.glob("*/.*"))
    assert int((tmp_path / "size").read_text()) == sum(path.stat().st_size for path in held)


def test_a_folder_that_takes_no_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--teacher-cache"):
        make_cache(tmp_path / "file")


def cached_distiller(folder: Path | None, seed: int = 2, autocast=torch.float32, **settings) -> Distiller:
    student, teacher = gated_model("headwise", seed=1), gated_model("none", seed=seed)
    config = DistillConfig(**{"warmup_steps": 0, "max_steps": 10, "learning_rate": 1e-3} | settings)
    cache = make_cache(folder, teacher=str(seed)) if folder else None
    return Distiller(student, teacher, config, autocast, 0, cache=cache)


def known_batch():
    return replace(batch(), digests=("a", "b", "c", "d"))


def test_a_cached_teacher_gives_the_same_losses_and_gradients(tmp_path):
    plain, cached = cached_distiller(None), cached_distiller(tmp_path)
    for number in range(3):
        expected, found = (d.step(number, [known_batch()]).read() for d in (plain, cached))
        assert found.as_dict() == pytest.approx(expected.as_dict(), rel=1e-5)
    for name, gradient in gradients(cached).items():
        torch.testing.assert_close(gradient, gradients(plain)[name], atol=1e-6, rtol=1e-3, msg=name)


def test_an_entry_has_the_teachers_number_format_wherever_it_is_made(tmp_path):
    """The autocast of a GPU computes norms in float32, which the loss rounds at once."""
    plain, cached = (cached_distiller(folder, autocast=torch.bfloat16) for folder in (None, tmp_path))
    for distiller in (plain, cached):
        distiller.teacher.model.decoder.layer_norm.register_forward_hook(lambda _, __, output: output.float())
    expected, found = (d.step(0, [known_batch()]).read() for d in (plain, cached))
    assert found.as_dict() == pytest.approx(expected.as_dict(), rel=2e-2)
    assert cached.pair.cache.get("a").dtype == torch.bfloat16


def test_the_teacher_runs_once_for_every_window(tmp_path):
    runs = []
    first, later = cached_distiller(tmp_path), cached_distiller(tmp_path)
    for distiller in (first, later):
        distiller.teacher.model.encoder.register_forward_hook(lambda *_: runs.append(1))
    one = first.step(0, [known_batch()]).read()
    first.step(1, [known_batch()])
    assert len(runs) == 4
    assert later.step(0, [known_batch()]).read() == one and len(runs) == 4


def test_a_windows_digest_is_that_of_its_audio_and_text(tmp_path):
    path = write_noises(tmp_path / "one", 8)
    other = change_lines(write_noises(tmp_path / "two", 8), text={3: "nine"})
    settings = {"batch_size": 8, "teacher_cache": "x"}

    def digests(source: Path, epoch: int = 0) -> dict[str, str]:
        steps = list(make_feed(source, **settings).steps(None, epoch + 1, 0, 1))
        (found,) = steps[epoch].batches
        return {u.id.split("/")[-1]: d for u, d in zip(found.utterances, found.digests, strict=True)}

    one = digests(path)
    assert len({*one.values()}) == 8 and digests(path, epoch=1) == one
    changed = {name for name, digest in digests(other).items() if one[name] != digest}
    assert len(changed) == 1
    assert make_feed(path, batch_size=8).steps(None, 1, 0, 1).__next__().batches[0].digests == ()


@pytest.mark.parametrize("random", ["spec_augment", "pack"])
def test_windows_that_never_come_again_are_refused(random):
    with pytest.raises(UsageError, match=f"--{random.replace('_', '-')} makes other windows"):
        check_teacher_cache(DistillConfig(teacher_cache="x", **{random: True}))


def test_distill_goes_on_with_a_cache_elsewhere_and_without_one(workspace):
    """Where the cache lies, or whether there is one, is no setting of the result."""
    assert run_command("init-student").exit_code == 0
    for steps, flags in enumerate((("--teacher-cache", "cache"), ("--teacher-cache", "elsewhere"), ()), 2):
        done = run_command("distill", *flags, "--max-steps", steps)
        assert done.exit_code == 0, done.output
    assert list((workspace / "cache").glob("*/*.taught")) and list((workspace / "elsewhere").glob("*/*.taught"))
    assert artifact.load(workspace / "run" / "distilled").results["steps"] == 4


def test_a_cache_without_room_is_said(workspace):
    assert run_command("init-student").exit_code == 0
    done = run_command("distill", "--teacher-cache", "cache", "--teacher-cache-gib", "0.000001")
    assert done.exit_code == 0 and "found no room for all windows" in " ".join(done.output.split()), done.output
