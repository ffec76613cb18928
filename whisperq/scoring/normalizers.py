"""What is done to references and hypotheses before their words are compared.

The normaliser belongs to the test set and to every figure measured with it: "english" turns
"one two three" into the single word "123", so that a string of digits is right or wrong as a whole.
It also writes British spellings as American ones. OpenAI publishes the map of them; most tokenizers
bring it along (`normalizer.json`), and where one does not, the package whisper-normalizer does.

Both are openai/whisper's, with three faults of theirs mended. Combining marks (Unicode category M) are parts of words,
not symbols: without them the Hindi for "of" is the same whether it is masculine or feminine, and Thai loses vowels;
"english" drops diacritics of Latin letters alone. Typographic apostrophes are apostrophes. Invisible characters, such
as those that only set the direction of writing, are nothing.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from whisperq.errors import UsageError

NORMALIZERS = ("english", "basic", "none")
WITHOUT_MAP = "english-without-spelling-map"  # evaluations of whisperq 0.1 say so; still read, made no more
VERSION = 2  # of what they do; results that name none have 1: marks parted words, only ' was an apostrophe

APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u201b\u02bc\u02bb\u02bd\uff07\ua78c\u055a\u2032\u00b4`", "'"))
JOINERS = "\u200c\u200d"  # letters of Persian, Sinhala and others are joined or kept apart by them
# Soft hyphen, grapheme joiner, marks and embeddings of direction, word joiner, byte order mark; variation selectors.
INVISIBLE = dict.fromkeys(
    [0xAD, 0x34F, 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x2070), 0xFEFF]
    + [*range(0x180B, 0x180E), 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]
)
HIDDEN = 0xF0000  # private characters, which no rule of the English normaliser touches


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
        return Normalizer("english", _english(spelling_map or published_spelling()))
    if name == WITHOUT_MAP:
        return Normalizer(WITHOUT_MAP, _english({}))
    if name == "basic":
        return Normalizer("basic", _basic())
    if name == "none":
        return Normalizer("none", str)
    raise UsageError(f"unknown normalizer {name!r}; choose one of {', '.join(NORMALIZERS)}")


def _basic() -> Callable[[str], str]:
    basic = BasicTextNormalizer()
    basic.clean = symbols_to_spaces
    return lambda text: basic(_unified(text))


def _english(spelling_map: dict[str, str]) -> Callable[[str], str]:
    english = EnglishTextNormalizer(spelling_map)
    return lambda text: _shown(english(_hidden(_unified(text))))


def _unified(text: str) -> str:
    """All apostrophes alike, and nothing invisible."""
    return text.translate(APOSTROPHES).translate(INVISIBLE)


def symbols_to_spaces(s: str) -> str:  # the argument is named as in what it stands in for
    """Symbols and punctuation become spaces; a mark stays with its letter, and one that has none is dropped."""
    found = " "
    for c in unicodedata.normalize("NFKC", s.replace("i\u0307", "i")):  # the lower case of the Turkish dotted I
        kind = unicodedata.category(c)
        if kind[0] in "SP":
            found += " "
        elif kind[0] != "M" and c not in JOINERS or kind != "Me" and not found[-1].isspace():
            found += c
    return found


def _hidden(text: str) -> str:
    """Text with marks of non-Latin letters as private characters, to keep them: they are vowels, not accents."""
    if text.isascii():
        return text
    found, latin = [], True
    for c in text:
        if unicodedata.category(c)[0] == "M":
            found.append(c if latin else chr(HIDDEN + ord(c)))
            continue
        latin = not c.isalpha() or unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH LATIN"))
        parts = c if latin else unicodedata.normalize("NFKD", c)
        found += [chr(HIDDEN + ord(p)) if unicodedata.category(p)[0] == "M" else p for p in parts]
    return "".join(found)


def _shown(text: str) -> str:
    """Undo `_hidden`; letters and marks become one character where Unicode has one."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", "".join(chr(ord(c) - HIDDEN) if ord(c) >= HIDDEN else c for c in text))
