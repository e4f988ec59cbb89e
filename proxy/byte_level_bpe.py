"""Byte-level BPE on tiktoken, from a `ByteLevelSpec`.

tiktoken knows no merge list: it merges two neighbours whenever their concatenation is in the vocabulary,
lowest rank first. That equals the merge list if every token is made by one pair only and ranks follow those
pairs. `merge_alone` shows it per token: until a token is made, its bytes merge in any text as they do alone;
so a token that merges alone into itself is made by its last pair everywhere, and one that does not, nowhere.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

import regex  # type: ignore[import-untyped]  # a requirement of tiktoken
import tiktoken

from proxy.tokenizer_json import ByteLevelSpec, UnsupportedTokenizer, normalise

SAMPLES = (
    "",
    "Hello, world! It's 12:30 and they're late; we'll wait.",
    "  leading,  double   spaces, tabs\t\tand\r\n\r\nnewlines \n \n end  ",
    'def f(x: int) -> str:\n    return f"{x ** 2:,}"  # ½ of $1,234.56 or 3.14e-10\n',
    "Grüße, français, español, Ελληνικά, русский, עברית, العربية, हिन्दी, ไทย, 中文，日本語、한국어",
    "e\u0301 A\u030a \u1e9b\u0323 \ufb01 x\u0338 x\u00a0y\u2003z \u200b\u2028",
    "👍🏽 👩‍👩‍👧 🇩🇪 ∑∫√ ≤ \x00\x07\x7f \x85",
    "don't DON'T I'M you'Ve 'S ''s 007 1234567890 ١٢٣ Ⅷ ①",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ababababab bbb bbbb bbbbb \n\n\n\n\n\n\n",
)
_NEVER = 1 << 62  # a rank above all
_BYTES_OF_UTF8 = bytes([*range(0xC0), *range(0xC2, 0xF5)])


class UncountableText(Exception):
    """The pattern gives up on this text: hundreds of thousands of blanks in a row."""


class ByteLevelBpe:
    """Text → token ids, as the backend's own tokenizer gives them. Immutable; safe to share."""

    def __init__(self, spec: ByteLevelSpec) -> None:
        """Raises `UnsupportedTokenizer` if tiktoken cannot do what the specification says."""
        self._normal_forms, self._prefix_space = spec.normal_forms, spec.prefix_space
        self._raw_tokens = _TokenFinder({t.content: t.id for t in spec.added_tokens if not t.normalized})
        self._normalised_tokens = _TokenFinder(
            {normalise(t.content, spec.normal_forms): t.id for t in spec.added_tokens if t.normalized}
        )
        self._missing = bytes(byte for byte in _BYTES_OF_UTF8 if bytes([byte]) not in spec.vocabulary)
        if self._missing and spec.whole_pieces_first:
            raise UnsupportedTokenizer("ignore_merges with bytes missing from the vocabulary")
        pattern = _covering(spec.pattern) if spec.keep_unmatched else spec.pattern
        ranks, self._id_of_rank = _ranks(spec)
        self._encoding = _encoding(pattern, ranks)
        self._pieces = _compiled(pattern) if self._missing else None
        if spec.keep_unmatched:
            self._check_round_trips()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, added tokens recognised, nothing put around it.

        Raises `UncountableText` where the pattern gives up.
        """
        ids: list[int] = []
        for raw in self._raw_tokens.split(text):
            if isinstance(raw, int):
                ids.append(raw)
                continue
            for part in self._normalised_tokens.split(normalise(raw, self._normal_forms)):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    ids += self._ids(self._plain_ranks(part))
        return ids

    def _ids(self, ranks: list[int]) -> list[int]:
        table = self._id_of_rank
        return ranks if table is None else [table[rank] for rank in ranks]

    def _plain_ranks(self, text: str) -> list[int]:
        if self._prefix_space and text and not text.startswith(" "):
            text = " " + text
        try:
            if self._pieces is not None:
                return self._ranks_without_missing_bytes(text, self._pieces)
            return self._encoding.encode_ordinary(text)
        except BaseException as error:
            # tiktoken unwraps the regex engine's "stack overflow" and "backtrack limit" into a Rust panic.
            if type(error).__name__ != "PanicException":
                raise
            raise UncountableText(f"{len(text)} characters: {error}") from error

    def _ranks_without_missing_bytes(self, text: str, pieces: regex.Pattern[str]) -> list[int]:
        """`tokenizers` drops a byte that has no token after it split the text, so its neighbours meet."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        encoded = text.encode()
        if len(encoded.translate(None, self._missing)) == len(encoded):
            return self._encoding.encode_ordinary(text)
        ranks: list[int] = []
        for piece in pieces.finditer(text):
            kept = piece.group().encode().translate(None, self._missing)
            if kept:
                ranks += self._encoding._encode_single_piece(kept)
        return ranks

    def _check_round_trips(self) -> None:
        for sample in SAMPLES:
            plain = normalise(sample, self._normal_forms)
            try:
                decoded = self._encoding.decode_bytes(self._plain_ranks(plain))
            except (UncountableText, KeyError) as error:
                raise UnsupportedTokenizer(f"the pattern fails on {plain!r}") from error
            if decoded != plain.encode().translate(None, self._missing):
                raise UnsupportedTokenizer(f"the pattern loses parts of {plain!r}")


class _TokenFinder:
    """Cuts a text at given strings, leftmost and longest first, as `tokenizers`' Aho-Corasick does."""

    def __init__(self, id_of: Mapping[str, int]) -> None:
        self._id_of = id_of
        longest_first = sorted(id_of, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if id_of else None

    def split(self, text: str) -> Iterator[str | int]:
        """The text between the strings, empty text left out, and the strings as their ids."""
        if self._cut is None:
            yield text
            return
        for index, part in enumerate(self._cut.split(text)):
            if index % 2:
                yield self._id_of[part]
            elif part:
                yield part


def merge_alone(token: bytes, merges: Mapping[tuple[bytes, bytes], int]) -> tuple[list[bytes], int | None]:
    """What a merge list makes of one token's bytes: (final pieces, rank of the last merge).

    The lowest rank merges first, the leftmost of equals; `None` if nothing merges.
    """
    pieces = [token[i : i + 1] for i in range(len(token))]
    # ranks[i]: of merging pieces[i] with pieces[i + 1]
    ranks = [merges.get(pair, _NEVER) for pair in pairwise(pieces)]
    last: int | None = None
    while ranks and (lowest := min(ranks)) != _NEVER:
        last, at = lowest, ranks.index(lowest)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        del ranks[at]
        if at > 0:
            ranks[at - 1] = merges.get((pieces[at - 1], pieces[at]), _NEVER)
        if at < len(ranks):
            ranks[at] = merges.get((pieces[at], pieces[at + 1]), _NEVER)
    return pieces, last


def _ranks(spec: ByteLevelSpec) -> tuple[dict[bytes, int], list[int] | None]:
    """tiktoken's ranks, and each rank's token id where the ranks could not be the ids themselves."""
    vocabulary = spec.vocabulary
    if any(pair[0] + pair[1] not in vocabulary for pair in spec.merges):
        raise UnsupportedTokenizer("a merge makes a token that is not in the vocabulary")
    last_merge, whole_only = _derivations(spec)
    merged = sorted(last_merge, key=last_merge.__getitem__)
    single = [token for token in vocabulary if len(token) == 1]
    usable = [*single, *merged, *whole_only]
    ids = [vocabulary[token] for token in usable]
    in_merge_order = all(vocabulary[a] < vocabulary[b] for a, b in pairwise(merged))
    if in_merge_order and len(set(ids)) == len(ids):
        ranks, id_of_rank = dict(zip(usable, ids, strict=True)), None
    else:
        ranks, id_of_rank = {token: rank for rank, token in enumerate(usable)}, ids
    # tiktoken panics unless every byte has a rank; those added here are never met.
    free = max(ranks.values(), default=-1) + 1
    absent = [bytes([byte]) for byte in range(256) if bytes([byte]) not in ranks]
    return ranks | {byte: free + n for n, byte in enumerate(absent)}, id_of_rank


def _derivations(spec: ByteLevelSpec) -> tuple[dict[bytes, int], list[bytes]]:
    """(token → rank of the merge that makes it, tokens that only a whole piece can be)."""
    added = {token.content.encode() for token in spec.added_tokens}
    last_merge: dict[bytes, int] = {}
    whole_only: list[bytes] = []
    for token in spec.vocabulary:
        if len(token) == 1:
            continue
        pieces, last = merge_alone(token, spec.merges)
        if len(pieces) == 1 and last is not None:
            last_merge[token] = last
        elif spec.whole_pieces_first and token not in added:
            if len(pieces) == 2:
                raise UnsupportedTokenizer(f"tiktoken would merge {pieces}, which the merge list does not")
            whole_only.append(token)
    return last_merge, whole_only


def _covering(pattern: str) -> str:
    """The pattern, then whatever it does not match: `Split` keeps that as a piece, tiktoken would drop it."""
    return rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+"


def _encoding(pattern: str, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    try:
        return tiktoken.Encoding("backend", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except ValueError as error:
        raise UnsupportedTokenizer(f"the pattern does not compile: {error}") from error


def _compiled(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise UnsupportedTokenizer(f"the pattern does not compile: {error}") from error
