"""A whisperq.yaml to begin with: every key with its meaning, every command's settings with their defaults."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from whisperq.config import Experiment
from whisperq.declared import SETTINGS
from whisperq.disk import replace
from whisperq.errors import InputError, UsageError

HEAD = """\
# whisperq.yaml: what the commands of one experiment have in common. A flag wins over it.
# Relative paths count from this file's folder; ${NAME} is taken from the environment.
# The first command leaves a copy with absolute paths in the run folder, so that later jobs need none.

# What the student is made from and learns from: a Hub id or a folder.
teacher: {teacher}

# The prompt's language, null for an English-only model; and its task, transcribe or translate.
language: {language}
task: {task}

# Text normaliser of the sets that name none: english (Whisper's), basic (case and punctuation alone), none.
normalizer: {normalizer}
"""

DATA = """
# Utterances. Each entry is a path, or a mapping with one of these two
#   path: train.jsonl       # utterance list (JSON lines with audio_filepath and text), a folder with metadata.csv
#                           # or metadata.jsonl, or a parquet file
#   dataset: owner/name     # data set of the Hub, or a local folder for datasets.load_dataset
# and any of
#   config: en              # of the data set
#   split: train            # of the data set
#   text_column: sentence   # where the references stand; default: text, or what is usual
#   audio_column: audio
#   id_column: id           # an utterance's name; default: the recording's
#   speaker_column: speaker # for packing, and for blocks of the bootstrap
#   weight: 1.0             # training: passes over it in each epoch; its part of the data where any is streamed
#   streaming: false        # training: read the data set without downloading it
#   limit: 1000             # the first N utterances only
#   name: clean             # default: the file's
#   normalizer: english     # of this set
#   group: id               # test: id (in-distribution) or ood
#   licence: words          # what must be accepted before it can be read
#   note: words             # for people
train: []       # [train.jsonl, {dataset: mozilla-foundation/common_voice_16_1, config: en, split: train}]
validation: []  # [validation.jsonl]; calibrate looks at it, too
test: {}        # {clean: {path: clean.jsonl, normalizer: english, group: id}}
"""

DEFAULTS = """
# What each command does where its flags say nothing else. All values are the ones it has anyway: take the "# " away
# from a command and from those of its settings that are to change.
defaults:
"""


def write_template(out: Path, force: bool) -> Path:
    """Raises UsageError for a file that is there, InputError for a folder that is not."""
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent} to write {out.name} into")
    if out.exists() and (not force or out.is_dir()):
        raise UsageError(f"{out} exists; give --force to replace it, or --out to write elsewhere")
    replace(out, template())
    return out


def template() -> str:
    """The file's text; as it stands it changes nothing."""
    plain = {f.name: json.dumps(f.default) for f in fields(Experiment) if isinstance(f.default, str | None)}
    head = HEAD
    for name, value in plain.items():
        head = head.replace(f"{{{name}}}", value.strip('"'))
    return head + DATA + DEFAULTS + "".join(_section(command, kind) for command, kind in SETTINGS.items())


def _section(command: str, kind: type) -> str:
    lines = [f"  # {command}:"]
    for f in fields(kind):
        setting = f"{f.name}: {_value(f.default)}"
        lines += [f"  #   {setting:<24}  # {f.metadata['help']}"]
    return "\n".join(lines) + "\n"


def _value(default: Any) -> str:
    """A default as YAML text. It is written as JSON, which YAML reads, except for numbers without a point."""
    return json.dumps(list(default) if isinstance(default, tuple) else default)
