"""whisperq doctor: what it finds is what the libraries and the system say themselves."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import soundfile
import torch

from whisperq.cli import doctor

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def package(requirement: str) -> str:
    return requirement.split(">")[0].split("[")[0]


@pytest.fixture
def findings(tmp_path, monkeypatch, invoke):
    """findings(run) -> name -> finding, through the command."""
    monkeypatch.chdir(tmp_path)

    def find(*flags: str, code: int = 0) -> dict[str, dict]:
        result = invoke("doctor", "--json", *flags)
        assert result.exit_code == code, result.output
        return {f["name"]: f for f in json.loads(result.stdout)["findings"]}

    return find


def test_every_dependency_and_extra_is_looked_at():
    assert set(doctor.CORE) == set(map(package, PROJECT["dependencies"]))
    extras = PROJECT["optional-dependencies"]
    assert {name: set(map(package, extras[name])) for name in doctor.EXTRAS} == {
        name: set(packages) for name, packages in doctor.EXTRAS.items()
    }


def test_versions_and_processor_are_those_of_the_libraries(findings):
    found = findings()
    for name in doctor.CORE:
        assert found[name]["said"] == metadata.version(name)
    assert torch.backends.cpu.get_cpu_capability() in found["capability"]["said"]
    assert (found["AVX2"]["state"] == "ok") == torch.cpu._is_avx2_supported()
    assert (found["AMX"]["state"] == "ok") == torch.cpu._is_amx_tile_supported()
    assert found["threads"]["said"].startswith(f"{torch.get_num_threads()} ")
    assert ("CUDA" not in found) == torch.cuda.is_available()


def test_instruction_sets_are_the_kernels(findings):
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or "flags" not in flags.read_text():
        pytest.skip("this system does not list its processor's flags")
    there, found = set(flags.read_text().split()), findings()
    sets = {"AVX2": {"avx2"}, "VNNI": {"avx512_vnni", "avx_vnni"}, "AVX512-BF16": {"avx512_bf16"}}
    for name, either in sets.items():
        assert (found[name]["state"] == "ok") == bool(either & there)


def test_codecs_that_are_said_to_be_there_can_be_written_and_read(findings, tmp_path):
    found = findings()
    for name, (container, codec) in doctor.CODECS.items():
        if found[name]["state"] == "ok":
            soundfile.write(tmp_path / "a", [0.0] * 4800, 48_000, format=container, subtype=codec)
            assert len(soundfile.read(tmp_path / "a")[0]) > 0


def test_ffmpeg_is_looked_for_on_the_path(findings, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = findings()["ffmpeg"]
    assert found["state"] == "missing" and "m4a" in found["said"] and found["remedy"]
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert (findings()["ffmpeg"]["state"], findings()["ffmpeg"]["said"]) == ("ok", str(tmp_path / "ffmpeg"))


def test_an_extra_that_is_missing_comes_with_its_line(findings, monkeypatch):
    find_spec = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else find_spec(name, *a)
    )
    found = findings()["openvino"]
    assert (found["state"], found["said"]) == ("missing", "without openvino")
    assert found["remedy"] == 'pip install "whisperq[openvino]"'


def test_a_core_package_that_is_missing_or_too_old(findings, monkeypatch):
    version = doctor._version
    monkeypatch.setattr(doctor, "_required", lambda: {"jiwer": ">=4,<5"})
    monkeypatch.setattr(doctor, "_version", lambda name: "3.0" if name == "jiwer" else version(name))
    found = findings()["jiwer"]
    assert (found["state"], found["remedy"]) == ("warning", 'pip install "jiwer>=4,<5"')
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "jiwer" else version(name))
    assert findings(code=3)["jiwer"]["state"] == "broken"


def test_a_compiler_that_is_missing_or_fails_is_a_warning(findings, monkeypatch):
    from whisperq.native.build import library

    monkeypatch.setenv("CXX", "no-such-compiler")
    library.cache_clear()
    try:
        found = findings()["int8 kernels"]
    finally:
        library.cache_clear()
    assert found["state"] == "warning" and "CXX" in found["remedy"]


def test_a_package_that_is_there_but_broken_is_a_line_not_a_crash(findings, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    found = findings(code=3)
    assert found["soundfile"]["state"] == "broken" and "run folder" in {f["group"] for f in found.values()}


def test_the_hub_cache_is_where_huggingface_hub_says(findings, monkeypatch):
    code = "from huggingface_hub.constants import HF_HUB_CACHE as c, HF_HUB_OFFLINE as o; print(c); print(o)"
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as patch:
            if name:
                patch.setenv(name, "1" if name == "HF_HUB_OFFLINE" else str(Path.cwd() / "elsewhere"))
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
            cache, offline = done.stdout.split()
            found = findings()
            assert found["cache"]["said"].startswith(cache)
            assert found["access"]["said"].startswith("offline") == (offline == "True")


def test_a_run_folder_that_cannot_be_written(findings):
    assert findings("--run", "new")["permission"]["said"] == "new can be made"
    assert not Path("new").exists()
    Path("file").write_text("")
    found = findings("--run", "file/run", code=3)["permission"]
    assert found["state"] == "broken" and "--run" in found["remedy"]


def test_little_space_is_a_warning(findings, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 3e9}))
    assert findings()["free space"]["state"] == "warning"


def test_people_read_a_table(tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    result = invoke("doctor")
    assert result.exit_code == 0 and "transformers" in result.stdout and "run can be made" in result.stdout
