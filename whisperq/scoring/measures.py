"""What a test set is measured by: WER, or CER where its language writes no spaces, so that words cannot be counted.

    CER = (S + D + I) / C     over characters, where a sentence of Chinese, Japanese, Thai, Lao, Khmer or Burmese is
                              "one word"; as openai/whisper scores them, a space between such characters is none

Where utterances of several languages come into one figure, as in a validation, a character of such a script is a word,
utterance by utterance (`countable`).

A character's script is the beginning of its Unicode name: CJK UNIFIED IDEOGRAPH-4E2D, THAI CHARACTER KO KAI.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby

from whisperq.kinds.scores import Measure, Rule

UNITS = {"wer": "word", "cer": "character"}
SPACELESS = (
    "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR",
    "TIBETAN", "TAI", "NEW TAI", "JAVANESE", "BALINESE",
)  # fmt: skip
SPACE = "\u2423"  # how the space of other scripts stands among the characters: no normaliser leaves this one


def rule_of(results: Rule) -> tuple[str, str, Measure]:
    """Normaliser, scorer and measure of a set's results."""
    return results["normalizer"], results["scorer"], results["measure"]


@lru_cache(maxsize=2**16)
def is_spaceless(character: str) -> bool:
    """Whether it is a letter, mark or digit of a script that writes no spaces between words."""
    return unicodedata.category(character)[0] in "LMN" and unicodedata.name(character, "").startswith(SPACELESS)


def writes_no_spaces(texts: Iterable[str]) -> bool:
    """Whether more of these texts is in such a script than not: a character of one counts as a word of the others."""
    without = others = 0
    for text in texts:
        for spaceless, run in _runs(text):
            without, others = without + spaceless * len(run), others + (not spaceless)
    return without > others


def _runs(text: str) -> Iterator[tuple[bool, str]]:
    """Characters of such scripts in a row, and words of the others."""
    for word in text.split():
        for spaceless, run in groupby(word, is_spaceless):
            characters = "".join(run)
            if any(map(str.isalnum, characters)):
                yield spaceless, characters


def countable(reference: str, hypothesis: str) -> tuple[str, str]:
    """Both texts, normalised, as words for an alignment; where the reference writes no spaces each character is one."""
    if not writes_no_spaces([reference]):
        return reference, hypothesis
    return characters(reference, spaceless=True), characters(hypothesis, spaceless=True)


def characters(text: str, spaceless: bool) -> str:
    """A normalised text's characters, each a word of its own.

    spaceless: of a set that writes no spaces; then neither one beside such a character nor what is invisible counts.
    """
    words = text.split()
    if spaceless:
        words = ["".join(c for c in word if unicodedata.category(c) != "Cf") for word in words]
        words = [word for word in words if word]
    found: list[str] = []
    for word in words:
        joined = spaceless and found and (is_spaceless(found[-1]) or is_spaceless(word[0]))
        found += [SPACE] if found and not joined else []
        found += word
    return " ".join(found)
