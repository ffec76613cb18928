"""The walls of the house: who may import whom, held true over the source itself."""

import ast
import sys
from pathlib import Path

import pytest

from whisperq.runtime.pipeline import OUTPUTS, named
from whisperq.runtimes import ENTRIES

PACKAGE = Path(__file__).parents[1] / "whisperq"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """whisperq/models/sites.py -> models.sites; whisperq/__init__.py -> ""."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


GROUND = {
    "",
    "artifact",
    "bounded_folder",
    "checks",
    "config",
    "declaration",
    "declared",
    "disk",
    "errors",
    "former",
    "settings",
    "hashing",
    "kinds",
    "names",
    "manifests",
    "locking",
    "options",
    "publishing",
    "reading",
    "references",
    "preconditions",
    "registered",
    "run_folder",
    "runtimes",
    "schema",
    "schemes",
    "sealing",
    "standard_error",
    "standard_streams",
    "stopping",
    "training_options",
}  # "": its version
# Room -> the rooms that it may import beside its own; everybody may use the ground.
# None may import a room of a later line.
MAY_IMPORT = {
    "quant": set(),
    "jobs": set(),
    "native": {"quant"},
    "models": {"quant"},
    "data": {"quant"},
    "scoring": {"quant"},
    "ptq": {"models", "data", "quant", "native"},
    "runtime": {"ptq", "models", "data", "scoring", "quant", "native", "jobs"},
    "graphs": {"runtime", "ptq", "models", "quant"},
    "calibration": {"runtime", "ptq", "models", "data", "scoring", "quant", "jobs"},
    "batch": {"runtime", "models", "data", "scoring", "jobs"},
    "results": {"data", "scoring", "jobs"},
    "training": {"runtime", "ptq", "native", "models", "data", "scoring", "quant", "jobs"},  # a validation decodes
    "report": {"results", "models", "data", "scoring", "quant", "jobs"},
}
MAY_IMPORT["steps"] = set(MAY_IMPORT)
# The command line announces what was chosen, fetches a Hub id, prints tables, and sees whether kernels can be compiled.
MAY_IMPORT["cli"] = {"steps", "report", "results", "runtime", "native", "models", "jobs"}
MAY_IMPORT |= {"api": {"cli", "jobs"}, "__main__": {"cli"}}
# Parts of the ground stand on one another only so.
GROUND_ORDER = {
    "": {"api", "registered", "report"},  # api and report when they are first named
    "bounded_folder": {"errors", "hashing", "locking", "publishing"},
    "errors": set(),
    "checks": {"errors"},
    "settings": {"checks"},
    "training_options": {"checks", "settings"},
    "declaration": set(),
    "declared": {"checks", "declaration", "settings", "options", "registered", "training_options"},
    "options": {"checks", "settings", "registered", "runtimes", "training_options"},
    "hashing": set(),
    "names": {"hashing"},
    "disk": {"errors"},
    "schema": {"errors"},
    "former": {"errors"},
    "kinds": {"former", "schema"},
    "manifests": {"kinds", "schema"},
    "registered": set(),
    "standard_error": set(),
    "standard_streams": set(),
    "stopping": set(),
    "locking": {"errors"},
    "publishing": {"disk", "errors", "locking"},
    "references": {"errors"},
    "sealing": {"", "disk", "hashing", "references"},
    "reading": {"errors", "former", "hashing", "kinds", "manifests", "references", "schema", "sealing"},
    "artifact": {"disk", "errors", "hashing", "publishing", "reading", "references", "sealing"},
    "config": {"checks", "declared", "errors", "former", "settings"},
    "preconditions": {"kinds", "artifact", "errors", "settings", "options", "runtimes", "training_options"},
    "run_folder": {"artifact", "errors", "options", "schemes"},
    "runtimes": set(),
    "schemes": {"kinds", "options"},
}
CLI = [path.stem for path in sorted((PACKAGE / "cli").glob("*.py"))]
LIGHT = (
    *("cli." + name for name in CLI),
    "api",
    "jobs.progress",
    "report.__init__",
    "report.gathering",
    "report.tables",
    "results.cells",
    "results.transcripts",
    *sorted(GROUND - {""}),
)
HEAVY = {"torch", "transformers", "datasets", "matplotlib", "numpy", "safetensors", "huggingface_hub", "soundfile"}


def imports(path: Path, lazy: bool = True) -> set[str]:
    """The modules that a file names in its imports; without `lazy` only those read when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for name in (alias.name for alias in node.names):
                found.add(f"{node.module}.{name}" if is_module(node.module, name) else node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            found.add(ast.unparse(node.args[0]).strip("f'\""))
    return found


def is_module(package: str, name: str) -> bool:
    place = PACKAGE.parent / package.replace(".", "/") / name
    return package.startswith("whisperq") and (place.is_dir() or place.with_suffix(".py").is_file())


def ours(path: Path) -> set[str]:
    names = {n for n in imports(path) if n.split(".")[0] == "whisperq"}
    return {n.removeprefix("whisperq").lstrip(".") for n in names if "{" not in n}


def foreign(path: Path, lazy: bool = True) -> set[str]:
    return {n.split(".")[0] for n in imports(path, lazy)} - {"whisperq"} - sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_imports_its_own_room_and_those_below(path):
    room = module_name(path).split(".")[0]
    rooms = {name.split(".")[0] for name in ours(path)}
    if room in GROUND:
        assert rooms <= GROUND_ORDER[room] | {room}
    else:
        assert rooms <= MAY_IMPORT[room] | GROUND | {room}, f"{room} may not import {rooms}"


def test_what_is_named_to_be_imported_later_is_there_and_lies_in_runtime():
    places = [place for entry in ENTRIES for place in (entry.opens, entry.engine) if place]
    places += [place for output in OUTPUTS.values() for place in (output.integers, output.run_graphs)]
    assert len(places) >= 8 and all(place.startswith("runtime.") and callable(named(place)) for place in places)


def test_no_step_imports_another():
    for path in (PACKAGE / "steps").glob("*.py"):
        assert not {name for name in ours(path) if name.startswith("steps")}, path


def test_no_room_may_import_one_above_it():
    rooms = list(MAY_IMPORT)
    for number, room in enumerate(rooms):
        assert MAY_IMPORT[room] <= set(rooms[:number]), room


def test_every_room_stands_in_the_table():
    rooms = {module_name(path).split(".")[0] for path in FILES}
    assert rooms == set(MAY_IMPORT) | GROUND


def test_the_ground_knows_the_standard_library_and_yaml():
    for path in (path for path in FILES if module_name(path).split(".")[0] in GROUND - {""}):
        assert foreign(path) <= {"yaml"}, path


def test_the_file_that_travels_with_a_model_needs_torch_and_transformers_alone():
    assert imports(PACKAGE / "models" / "gated_whisper.py") and not ours(PACKAGE / "models" / "gated_whisper.py")
    names = {name.split(".")[0] for name in imports(PACKAGE / "models" / "gated_whisper.py")}
    assert names == {"math", "torch", "transformers"}


ONLY_IN = {"matplotlib": {"report"}, "yaml": {"config"}, "typer": {"cli"}, "datasets": {"data"}}
ONLY_IN["jiwer"] = {"scoring"}
ONLY_IN["onnx"] = {"graphs", "runtime"}
ONLY_IN |= dict.fromkeys(("onnxruntime", "openvino"), {"runtime"})


@pytest.mark.slow
@pytest.mark.parametrize("library, rooms", ONLY_IN.items(), ids=ONLY_IN)
def test_a_library_stays_in_its_room(library, rooms):
    assert {module_name(p).split(".")[0] for p in FILES if library in foreign(p)} == rooms


def test_quant_is_tensors_alone():
    for path in (PACKAGE / "quant").rglob("*.py"):
        assert foreign(path) <= {"torch", "numpy"}, path
        assert not imports(path) & {"pathlib", "os", "json", "io"}, f"{path} touches a disk"


@pytest.mark.parametrize("name", LIGHT)
def test_what_the_command_line_imports_at_start_is_light(name):
    path = PACKAGE.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() and name != "report.__init__" else path.with_suffix(".py")
    assert not foreign(file, lazy=False) & HEAVY


def test_files_stay_short():
    for path in FILES:
        alone = path.name == "gated_whisper.py"  # it travels with the weights, so that it cannot be divided
        assert len(path.read_text().splitlines()) <= (350 if alone else 250), path


def test_no_test_module_imports_another():
    for path in sorted((PACKAGE.parent / "tests").rglob("*.py")):
        assert not [name for name in imports(path) if name.split(".")[0].startswith("test_")], path
