"""What is done to references and hypotheses before their words are compared.

The normaliser belongs to the test set and to every figure measured with it: "english" turns
"one two three" into the single word "123", so that a string of digits is right or wrong as a whole.
It also writes British spellings as American ones. OpenAI publishes the map of them; most tokenizers
bring it along (`normalizer.json`), and where one does not, the package whisper-normalizer does.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from whisperq.errors import UsageError

NORMALIZERS = ("english", "basic", "none")
WITHOUT_MAP = "english-without-spelling-map"  # evaluations of whisperq 0.1 say so; still read, made no more


@dataclass(frozen=True)
class Normalizer:
    """Text -> text whose words are separated by single spaces; `id` goes into results."""

    id: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return " ".join(self.function(text).split())


@cache
def published_spelling() -> dict[str, str]:
    """British -> American: OpenAI's map, 1,739 words. Only the data are read: the package's code needs many others."""
    return json.loads((files("whisper_normalizer") / "normalizers" / "english.json").read_text(encoding="utf-8"))


def spelling_of(tokenizer: object) -> dict[str, str]:
    """The spelling map that the model's tokenizer carries, else the published one."""
    return getattr(tokenizer, "english_spelling_normalizer", None) or published_spelling()


def normalizer_of(name: str, tokenizer: object) -> Normalizer:
    """The normaliser `name`, as it fits the model's tokenizer."""
    return get_normalizer(name, spelling_of(tokenizer))


def get_normalizer(name: str, spelling_map: dict[str, str] | None = None) -> Normalizer:
    """The normaliser `name`: Whisper's English or basic one, or "none", which collapses whitespace only.

    spelling_map: British -> American, for "english"; default: the published one.
    Raises UsageError for a name that is neither one of these nor the id of an earlier evaluation.
    """
    if name == "english":
        return Normalizer("english", EnglishTextNormalizer(spelling_map or published_spelling()))
    if name == WITHOUT_MAP:
        return Normalizer(WITHOUT_MAP, EnglishTextNormalizer({}))
    if name == "basic":
        return Normalizer("basic", BasicTextNormalizer())
    if name == "none":
        return Normalizer("none", str)
    raise UsageError(f"unknown normalizer {name!r}; choose one of {', '.join(NORMALIZERS)}")
