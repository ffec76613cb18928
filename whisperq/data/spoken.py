"""Whether anybody speaks in recordings that a model is to be measured on."""

from collections.abc import Sequence

from whisperq.data.batches import Loader
from whisperq.data.levels import Levels
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError


def without_speech(loader: Loader, given: Sequence[Utterance], drawn: Sequence[Utterance]) -> str | None:
    """None where somebody speaks, else a sentence that says how little there is.

    given: as they were listed; drawn: the same with a model's hypotheses where there was no text, which of a silent
    recording count for nothing. Reads no more than up to the first one with speech. Raises InputError where no word
    is in any.
    """
    words = False
    for listed, utterance in zip(given, drawn, strict=True):
        word = utterance.text is None or has_word(utterance.text)  # None: no decoder needs it
        words = words or (listed.text is not None and word)
        if word and _sounds(loader, utterance):
            return None
    if not words and not all(utterance.text is None for utterance in drawn):
        raise InputError(f"no word is in any of the {len(drawn):,} recordings to calibrate on; name speech with --data")
    return f"all {len(drawn):,} recordings to calibrate on are silent or unusable: ranges will not hold speech"


def has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _sounds(loader: Loader, utterance: Utterance) -> bool:
    audio = loader.audio(utterance)
    return audio is not None and not Levels.of(audio, loader.extractor.sampling_rate).silent
