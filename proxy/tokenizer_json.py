"""Reading a byte-level BPE `tokenizer.json`, and refusing every other kind.

The format is that of the Hugging Face `tokenizers` library. What is read here is exactly what encoding
needs; what is not understood raises `UnsupportedTokenizer` instead of being skipped.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]

# The pattern that `ByteLevel` applies when `use_regex` is set (GPT-2's `encoder.py`).
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WHOLE_TEXT_PATTERN = r"[\s\S]+"
_NORMAL_FORMS: Mapping[str, NormalForm] = {"NFC": "NFC", "NFD": "NFD", "NFKC": "NFKC", "NFKD": "NFKD"}


class TokenizerError(Exception):
    """A folder's tokenizer cannot be used to count tokens here."""


class TokenizerFileMissing(TokenizerError, FileNotFoundError):
    """The folder has no `tokenizer.json`."""


class UnsupportedTokenizer(TokenizerError):
    """The tokenizer is of a kind that is not rebuilt here; ask the backend's `/tokenize` instead."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A string that is one token wherever it occurs, found before the pattern splits the text."""

    content: str
    id: int
    normalized: bool
    """Looked for in the normalised text, after the tokens that are looked for in the raw text."""


@dataclass(frozen=True, slots=True)
class ByteLevelSpec:
    """What a byte-level BPE tokenizer does, step by step, with its strings turned into bytes."""

    vocabulary: Mapping[bytes, int]
    merges: Mapping[tuple[bytes, bytes], int]
    """(left, right) → rank; the lowest rank merges first."""
    whole_pieces_first: bool
    """A piece that is in the vocabulary is one token even where merges do not lead to it (`ignore_merges`)."""
    pattern: str
    """Splits a text into pieces; what it does not match is kept as a piece if `keep_unmatched`."""
    keep_unmatched: bool
    prefix_space: bool
    normal_forms: tuple[NormalForm, ...]
    added_tokens: tuple[AddedToken, ...]
    wrapping_tokens: int
    """How many tokens the post-processor puts around a single text."""


def read_spec(folder: Path) -> ByteLevelSpec:
    """Read `tokenizer.json`, and `tokenizer_config.json` where there is one, as transformers does.

    Raises `TokenizerFileMissing`, or `UnsupportedTokenizer` for anything but byte-level BPE.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerFileMissing(f"no tokenizer.json in {folder}")
    tokenizer, config = read_json(path), read_config(folder)
    try:
        return _spec(tokenizer, config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsupportedTokenizer(f"tokenizer.json is malformed: {error!r}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `tokenizer_config.json`; empty without one."""
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `UnsupportedTokenizer` if it is none."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnsupportedTokenizer(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnsupportedTokenizer(f"{path.name} is not a JSON object")
    return value


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like from `tokenizer_config.json`, unset ones left out."""
    found: dict[str, str] = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def normalise(text: str, forms: tuple[NormalForm, ...]) -> str:
    """Apply Unicode normal forms in order."""
    for form in forms:
        text = unicodedata.normalize(form, text)
    return text


def _spec(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> ByteLevelSpec:
    model = tokenizer["model"]
    _check_model(model)
    pattern, keep_unmatched, prefix_space = _pre_tokenizer(tokenizer.get("pre_tokenizer"))
    if config.get("add_prefix_space") not in (None, prefix_space):
        raise UnsupportedTokenizer("tokenizer_config.json contradicts tokenizer.json on add_prefix_space")
    bytes_of = _byte_table()
    return ByteLevelSpec(
        vocabulary=_vocabulary(model["vocab"], bytes_of),
        merges=_merges(model["merges"], bytes_of),
        whole_pieces_first=bool(model.get("ignore_merges")),
        pattern=pattern,
        keep_unmatched=keep_unmatched,
        prefix_space=prefix_space,
        normal_forms=tuple(_normal_forms(tokenizer.get("normalizer"))),
        added_tokens=_added_tokens(tokenizer, config),
        wrapping_tokens=_wrapping_tokens(tokenizer.get("post_processor"), config),
    )


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise UnsupportedTokenizer(f"the model is {kind}, not BPE")
    for option in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise UnsupportedTokenizer(f"BPE with {option} is not byte-level")


def _byte_table() -> dict[str, int]:
    """GPT-2's `bytes_to_unicode`, inverted: the character that stands for a byte → the byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _vocabulary(vocab: Mapping[str, int], table: Mapping[str, int]) -> dict[bytes, int]:
    # A string with a character outside the table stands for no bytes, so no text can lead to it.
    return {
        bytes([table[char] for char in token]): token_id
        for token, token_id in vocab.items()
        if token and all(char in table for char in token)
    }


def _merges(merges: list[Any], table: Mapping[str, int]) -> dict[tuple[bytes, bytes], int]:
    ranks: dict[tuple[bytes, bytes], int] = {}
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if all(char in table for char in left + right):
            ranks[bytes([table[c] for c in left]), bytes([table[c] for c in right])] = rank
    return ranks


def _normal_forms(normalizer: Mapping[str, Any] | None) -> Iterator[NormalForm]:
    if normalizer is None:
        return
    kind = normalizer["type"]
    if kind == "Sequence":
        for step in normalizer["normalizers"]:
            yield from _normal_forms(step)
    elif kind in _NORMAL_FORMS:
        yield _NORMAL_FORMS[kind]
    else:
        raise UnsupportedTokenizer(f"normalizer {kind}")


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return
    if pre_tokenizer["type"] == "Sequence":
        for step in pre_tokenizer["pretokenizers"]:
            yield from _steps(step)
    else:
        yield pre_tokenizer


def _pre_tokenizer(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, bool, bool]:
    """(pattern, keep what it does not match, put a space before the text)."""
    match [(step["type"], step) for step in _steps(pre_tokenizer)]:
        case [("ByteLevel", level)]:
            pattern = GPT2_PATTERN if level.get("use_regex", True) else _WHOLE_TEXT_PATTERN
            return pattern, False, bool(level.get("add_prefix_space", True))
        case [("Split", split), ("ByteLevel", level)] if not level.get("use_regex", True):
            if level.get("add_prefix_space", True):
                raise UnsupportedTokenizer("a space before every piece (add_prefix_space after Split)")
            return *_split(split), False
        case other:
            raise UnsupportedTokenizer(f"pre-tokenizer {[kind for kind, _ in other]}")


def _split(split: Mapping[str, Any]) -> tuple[str, bool]:
    pattern = split["pattern"].get("Regex")
    if pattern is None:
        raise UnsupportedTokenizer("Split by a plain string")
    match split["behavior"], bool(split.get("invert")):
        case "Isolated", _:
            return pattern, True
        case "Removed", True:
            return pattern, False
        case behaviour, invert:
            raise UnsupportedTokenizer(f"Split with behavior {behaviour}, invert {invert}")


def _added_tokens(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    listed = list(tokenizer.get("added_tokens") or ())
    contents = {entry["content"] for entry in listed}
    for token_id, entry in (config.get("added_tokens_decoder") or {}).items():
        if entry["content"] not in contents:
            listed.append({**entry, "id": int(token_id)})
    return tuple(_added_token(entry) for entry in listed if entry["content"])


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    for option in ("lstrip", "rstrip", "single_word"):
        if entry.get(option):
            raise UnsupportedTokenizer(f"added token {entry['content']!r} with {option}")
    normalized = bool(entry.get("normalized", not entry.get("special", False)))
    return AddedToken(entry["content"], int(entry["id"]), normalized)


def _wrapping_tokens(post_processor: Mapping[str, Any] | None, config: Mapping[str, Any]) -> int:
    # transformers rebuilds the post-processor where the configuration says something about it.
    if "add_bos_token" in config or "add_eos_token" in config:
        named = named_tokens(config)
        return sum(bool(config.get(f"add_{name}")) and name in named for name in ("bos_token", "eos_token"))
    return _post_processor(post_processor)


def _post_processor(post_processor: Mapping[str, Any] | None) -> int:
    match post_processor:
        case None | {"type": "ByteLevel"}:
            return 0
        case {"type": "Sequence", "processors": steps}:
            return sum(_post_processor(step) for step in steps)
        case {"type": "RobertaProcessing" | "BertProcessing"}:
            return 2
        case {"type": "TemplateProcessing", "single": items, "special_tokens": special}:
            if sum("Sequence" in item for item in items) != 1:
                raise UnsupportedTokenizer("a post-processor that does not contain the text exactly once")
            return sum(len(special[i["SpecialToken"]["id"]]["ids"]) for i in items if "SpecialToken" in i)
        case _:
            raise UnsupportedTokenizer(f"post-processor {post_processor.get('type')}")
