"""What is declared of each step: all that the command line, --dry-run and Python's functions know of it without torch.

A file of declared/ holds declarations; the step itself is steps/<name>.py, and takes its inputs by name:

    step(<inputs>, out: Path, config: <settings>, context: Context) -> Artifact
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InputFlag:
    """A flag that names an input; it is no setting of the result, its content is.

    find: from the command's session, what a step of the usual call is given for it; default: what was typed.
    """

    name: str
    help: str
    many: bool = False
    positional: bool = False
    metavar: str = "FILE"
    find: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Declaration:
    """One step and its command.

    A step whose inputs are not one for each flag has a call of its own in cli/resolve.py, which knows its place, too.
    """

    name: str  # the command's
    help: str
    example: str
    inputs: tuple[InputFlag, ...]
    settings: type
    place: str | None = None  # in the run folder, `{model}` being the model's name; of a step without a call of its own
    one_run: bool = True  # belongs to one experiment, in whose folder its configuration is kept
    named: tuple[str, ...] = ()  # inputs of the step that the command line names itself, so that none is announced
    text: bool = False  # gives text, or files of it, in the place of an artifact
    resumes: bool = False  # an interrupted run leaves work beside `out` that the same command goes on with
    checkpoints: bool = False  # work that stays when it is done, so that a training can be prolonged
    compared: tuple[str, ...] | None = None  # settings that tell results apart; None: all that are not operational
    left_to_inputs: tuple[str, ...] = ()  # settings that, where they are None, the step takes from its inputs
    shared: Mapping[str, str] = field(default_factory=dict)  # help of flags of all steps that mean something else here
    gathers: bool = False  # its inputs are the artifacts found in the folders that are named, and all are compared

    @property
    def step(self) -> str:
        """The name of its file in steps/ and of its function."""
        return self.name.replace("-", "_")


TEACHER = InputFlag(
    "teacher",
    "Teacher: Hub id or folder; default: the configuration's, else openai/whisper-large-v2.",
    find=lambda session: session.teacher(),
)


def of_model(default: str) -> InputFlag:
    """The flag of steps that take a model; `default` says which one they take without it."""
    words = f"Model: a path, a Hub id, or a name in the run folder; default: {default}."
    return InputFlag("model", words, find=lambda session: session.model())


MODEL = of_model("its distilled/, else its student/")
QUANTIZED = of_model("its only quantized one")
TRAIN = InputFlag(
    "train",
    "Training list, folder or parquet; repeatable; default: the configuration's.",
    many=True,
    find=lambda session: session.sources("train", "train"),
)
VALIDATION = InputFlag(
    "validation",
    "Validation list; repeatable; default: the configuration's.",
    many=True,
    find=lambda session: session.sources("validation", "validation"),
)
DATA = InputFlag(
    "data",
    "List to look at; repeatable; default: the configuration's validation data, else speech that ships with whisperq.",
    many=True,
    find=lambda session: session.speech(),
)
TEST = InputFlag(
    "test",
    "Test set: NAME=LIST, or a configured one's name; repeatable; default: all.",
    many=True,
    find=lambda session: session.sources("test", "test"),
)
FILES = InputFlag("files", "Audio files, of any length; - is standard input.", many=True, positional=True)
