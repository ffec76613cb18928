"""What this machine offers, and what is missing here with the line that brings it. Torch is imported while looking."""

import importlib.util
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from whisperq import __version__
from whisperq.disk import hub_cache, hub_is_offline
from whisperq.errors import InputError
from whisperq.results.cells import table
from whisperq.runtimes import ENTRIES

CORE = (
    "torch", "transformers", "typer", "rich", "datasets", "jiwer", "pyyaml", "numpy", "safetensors", "soundfile",
    "soxr", "matplotlib", "whisper-normalizer",
)  # fmt: skip
EXTRAS = {e.name: ("onnx", *(n for n in e.libraries if n != "onnx")) for e in ENTRIES if e.libraries}
EXTRAS |= {"tensorboard": ("tensorboard",)}
CODECS = {"FLAC": ("FLAC", None), "Ogg Opus": ("OGG", "OPUS"), "MP3": ("MP3", "MPEG_LAYER_III")}
LITTLE_SPACE = 10e9  # bytes: a large student, its checkpoints and its integers

State = Literal["ok", "warning", "missing", "broken"]  # broken: whisperq cannot work here

COLOURS = {"ok": "green", "warning": "yellow", "missing": "dim", "broken": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    group: str
    name: str
    state: State
    said: str
    remedy: str = ""


def examine(run: Path) -> list[Finding]:
    """All findings about this machine, in order; a check that fails is a finding as well."""
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": versions, "processor": processor, "gpu": gpu, "audio": codecs, "compiler": compiler,
        "extras": extras, "hub": hub, "run folder": lambda: run_folder(run),
    }  # fmt: skip
    return [finding for group, look in looks.items() for finding in _safely(group, look)]


def findings_table(findings: list[Finding]) -> Table:
    rows = table("whisperq doctor", "", "", "state", "", "remedy")
    for i, f in enumerate(findings):
        group = f.group if i == 0 or findings[i - 1].group != f.group else ""
        rows.add_row(group, f.name, Text(f.state, COLOURS[f.state]), f.said, f.remedy)
    return rows


def findings_json(findings: list[Finding]) -> str:
    return json.dumps({"findings": [asdict(f) for f in findings]})


def refuse_broken(findings: list[Finding]) -> None:
    """Raises InputError where whisperq cannot work here."""
    if broken := [f"{f.name}: {f.said}" for f in findings if f.state == "broken"]:
        raise InputError(f"whisperq cannot work here; {'; '.join(broken)}")


def _safely(group: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing or another's
        name = getattr(error, "name", None) or group
        yield Finding(group, name, "broken", f"cannot be loaded ({error})")


def versions() -> Iterator[Finding]:
    yield Finding("versions", "whisperq", "ok", __version__)
    yield Finding("versions", "python", "ok", f"{platform.python_version()}, {platform.platform()}")
    ranges = _required()
    for name in CORE:
        version, needed = _version(name), ranges.get(name, "")
        if version is None:
            yield Finding("versions", name, "broken", "not installed", f'pip install "{name}{needed}"')
        elif not _within(version, needed):
            remedy = f'pip install "{name}{needed}"'
            yield Finding("versions", name, "warning", f"{version}, where {needed} is needed", remedy)
        else:
            yield Finding("versions", name, "ok", version)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _required() -> dict[str, str]:
    """The ranges that whisperq's installation names; none where it runs from its source."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("whisperq") or ()
    except metadata.PackageNotFoundError:
        return {}
    return {one.name: str(one.specifier) for one in map(Requirement, lines) if one.marker is None}


def _within(version: str, needed: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(needed).contains(version, prereleases=True)


def processor() -> Iterator[Finding]:
    import torch

    from whisperq.native.processor import has_vnni

    yield Finding("processor", "capability", "ok", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}")
    sets = {
        "AVX2": (torch.cpu._is_avx2_supported, "float and INT8 products are slow without"),
        "VNNI": (has_vnni, "INT8 products are faster with it"),
        "AVX512-BF16": (torch.cpu._is_avx512_bf16_supported, "without it attention is computed in float32"),
        "AMX": (torch.cpu._is_amx_tile_supported, "INT8 and bfloat16 products are several times faster with it"),
    }
    for name, (test, use) in sets.items():
        there = test()
        yield Finding("processor", name, "ok" if there else "missing", "yes" if there else use)
    onednn = torch.backends.mkldnn.is_available()
    said = "yes" if onednn else "int8 uses PyTorch's own, slower product"
    yield Finding("processor", "oneDNN", "ok" if onednn else "warning", said)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    said, surplus = f"{threads} of PyTorch's on {cores} cores", threads > cores
    remedy = f"OMP_NUM_THREADS={cores}: threads without a core stall the others" if surplus else ""
    yield Finding("processor", "threads", "warning" if surplus else "ok", said, remedy)


def gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else None
        yield Finding("gpu", "CUDA", "missing", f"no usable device ({built or 'PyTorch is built without CUDA'})")
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(i)
        said = f"{device.name}, {device.total_memory / 1e9:.0f} GB, compute capability {device.major}.{device.minor}"
        yield Finding("gpu", f"cuda:{i}", "ok", said)


def codecs() -> Iterator[Finding]:
    import soundfile

    yield Finding("audio", "libsndfile", "ok", soundfile.__libsndfile_version__)
    for name, (container, codec) in CODECS.items():
        there = soundfile.check_format(container, codec) if codec else container in soundfile.available_formats()
        remedy = "" if there else "pip install --upgrade soundfile, whose wheels carry a newer libsndfile"
        yield Finding("audio", name, "ok" if there else "warning", "yes" if there else "cannot be read", remedy)
    if program := shutil.which("ffmpeg"):
        yield Finding("audio", "ffmpeg", "ok", program)
    else:
        said = "without it m4a, webm, wma and their like cannot be read"
        yield Finding("audio", "ffmpeg", "missing", said, "install the system's package ffmpeg")


def compiler() -> Iterator[Finding]:
    """The kernels are really compiled: a compiler that is there may still lack what it takes."""
    from whisperq.native.build import NoKernels, library
    from whisperq.native.places import kept, no_cache

    compiler = shutil.which(os.environ.get("CXX") or "c++")
    try:
        library()
    except NoKernels as error:
        remedy = "install g++ or name one in CXX; until then int8 runs on PyTorch's operators, more slowly"
        yield Finding("compiler", "int8 kernels", "warning", str(error), remedy)
    else:
        yield Finding("compiler", "int8 kernels", "ok", f"compiled ({compiler})")
    if compiler and (reason := no_cache(kept())):
        remedy = f"chmod 700 {kept()}, or name a folder of yours in XDG_CACHE_HOME"
        yield Finding("compiler", "cache", "warning", f"{reason}: each command compiles its own kernels", remedy)


def extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        found = {name: _version(name) for name in packages if importlib.util.find_spec(name)}
        if len(found) == len(packages):
            yield Finding("extras", extra, "ok", ", ".join(f"{name} {version}" for name, version in found.items()))
        else:
            lacking = ", ".join(name for name in packages if name not in found)
            yield Finding("extras", extra, "missing", f"without {lacking}", f'pip install "whisperq[{extra}]"')


def hub() -> Iterator[Finding]:
    cache = hub_cache()
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    writable = os.access(_existing(cache), os.W_OK)
    said = f"{cache}, {models} models" if cache.is_dir() else f"{cache}, not there yet"
    if writable:
        yield Finding("hub", "cache", "ok", said)
    else:
        yield Finding("hub", "cache", "warning", f"{said}, not writable", "name a folder of yours in HF_HOME")
    offline = "offline (HF_HUB_OFFLINE): only what is in the cache" if hub_is_offline() else "online, as far as it goes"
    yield Finding("hub", "access", "ok", offline)


def run_folder(run: Path) -> Iterator[Finding]:
    place = _existing(run.absolute())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        said = f"{run} cannot be written ({error.strerror})"
        yield Finding("run folder", "permission", "broken", said, "name another with --run or WHISPERQ_RUN")
    else:
        yield Finding("run folder", "permission", "ok", f"{run} can be {'written' if run.is_dir() else 'made'}")
    free = shutil.disk_usage(place).free
    state: State = "warning" if free < LITTLE_SPACE else "ok"
    remedy = "a large student and its checkpoints need more" if state == "warning" else ""
    yield Finding("run folder", "free space", state, f"{free / 1e9:.1f} GB", remedy)


def _existing(place: Path) -> Path:
    """The place itself or the nearest folder above it that is there."""
    return next(p for p in (place, *place.parents) if p.exists())
