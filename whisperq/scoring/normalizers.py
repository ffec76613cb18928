"""What is done to references and hypotheses before their words are compared.

The normaliser belongs to the test set and to every figure measured with it: "english" turns
"one two three" into the single word "123", so that a string of digits is right or wrong as a whole.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from whisperq.errors import UsageError

NORMALIZERS = ("english", "basic", "none")
WITHOUT_MAP = "english-without-spelling-map"


@dataclass(frozen=True)
class Normalizer:
    """Text -> text whose words are separated by single spaces; `id` goes into results."""

    id: str
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return " ".join(self.function(text).split())


def normalizer_of(name: str, tokenizer: object) -> Normalizer:
    """The normaliser `name`, with the spelling map that the model's tokenizer carries, if any."""
    return get_normalizer(name, getattr(tokenizer, "english_spelling_normalizer", None))


def get_normalizer(name: str, spelling_map: dict[str, str] | None = None) -> Normalizer:
    """The normaliser `name`: Whisper's English or basic one, or "none", which collapses whitespace only.

    spelling_map: British -> American, a tokenizer's `normalizer.json`; only "english" uses it, and without
    one the spellings stay as they are and the id says so.
    """
    if name == "english":
        id_ = "english" if spelling_map else WITHOUT_MAP
        return Normalizer(id_, EnglishTextNormalizer(spelling_map or {}))
    if name == "basic":
        return Normalizer("basic", BasicTextNormalizer())
    if name == "none":
        return Normalizer("none", str)
    raise UsageError(f"unknown normalizer {name!r}; choose one of {', '.join(NORMALIZERS)}")
