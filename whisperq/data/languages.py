"""Whisper's languages by code and by name: fr, French and <|fr|> are one."""

from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from whisperq.errors import InputError, meant

CODES = {name: code for code, name in LANGUAGES.items()} | TO_LANGUAGE_CODE  # other names too, such as castilian


def code_of(language: str, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The code of a language that is given by name or code; as it is where the tokenizer has a token of its own.

    Raises InputError for what is neither.
    """
    word = language.strip().removeprefix("<|").removesuffix("|>")
    code = CODES.get(word.lower(), word.lower())
    if code in LANGUAGES:
        return code
    if tokenizer is not None and tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(f"<|{word}|>")) == (
        f"<|{word}|>"
    ):
        return word
    near = meant(word.lower(), CODES) if len(word) > 3 else ""
    missing = "" if tokenizer is None else f": this model's tokenizer has no token <|{word}|>"
    raise InputError(f"unknown language {language!r}{near}{missing}; give a code such as fr, or a name such as French")


def name_of(code: str) -> str:
    """A title such as French (fr)."""
    return f"{LANGUAGES[code].title()} ({code})" if code in LANGUAGES else code


def ids_of(tokenizer: PreTrainedTokenizerBase, names: list[str]) -> list[int]:
    """The id of each token; an unknown one gets another's."""
    ids = tokenizer.convert_tokens_to_ids(names)
    return [ids] if isinstance(ids, int) else ids


def languages_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Code -> token, of those languages that the tokenizer has a token of."""
    ids = ids_of(tokenizer, [f"<|{code}|>" for code in LANGUAGES])
    known = tokenizer.convert_ids_to_tokens(ids)
    return {code: i for code, i, name in zip(LANGUAGES, ids, known, strict=True) if name == f"<|{code}|>"}
