"""Counting prompt tokens, against the `tokenizers` library on tokenizers of every supported shape."""

import json
import random
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from proxy.tokenizer_json import TokenizerError, TokenizerFileMissing, UnsupportedTokenizer
from proxy.tokens import SharedBpes, TokenCounter

REPOSITORY = Path(__file__).parents[2]
TINYMATH = REPOSITORY / "profiler" / "tinymath" / "weights" / "s"
SHIPPED = TokenCounter.from_folder(TINYMATH)

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

CORPUS = [
    "The quick brown fox doesn't jump over 12 lazy dogs; they're 345 in number, aren't they?",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 22) == 23)  # bbb bbbb aaaa",
    "Ein größerer Käse, déjà vu, привет мир, こんにちは世界, 你好，世界 👍🏽👍",
] * 3

Json = dict[str, Any]


def trained(
    pre_tokenizer: pre_tokenizers.PreTokenizer, *, all_bytes: bool = True, specials: tuple[str, ...] = ()
) -> Json:
    """A byte-level BPE `tokenizer.json` of a few hundred tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if all_bytes else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=alphabet, special_tokens=list(specials)
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())


def split_like(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, level])


def gpt2_like() -> Json:
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=False), specials=("<|endoftext|>",))


def gpt2_like_with_prefix_space() -> Json:
    return trained(pre_tokenizers.ByteLevel(add_prefix_space=True))


def qwen_like() -> Json:
    tokenizer = Tokenizer.from_str(json.dumps(trained(split_like(QWEN_PATTERN))))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|im", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("né", normalized=True)])
    return json.loads(tokenizer.to_str())


def llama3_like() -> Json:
    file = trained(split_like(LLAMA3_PATTERN))
    vocab = file["model"]["vocab"]
    vocab["xqzwv"] = len(vocab)  # as in Llama-3's vocabulary: a whole word that no merges lead to
    file["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos]),
        ]
    )
    return json.loads(tokenizer.to_str())


def ids_out_of_merge_order() -> Json:
    file = gpt2_like()
    vocab = file["model"]["vocab"]
    ids = list(vocab.values())
    random.Random(0).shuffle(ids)
    added = {token["content"]: token["id"] for token in file["added_tokens"]}
    shuffled = dict(zip(vocab, ids, strict=True))
    for content, token_id in added.items():  # an added token keeps its id
        holder = next(token for token, other in shuffled.items() if other == token_id)
        shuffled[holder], shuffled[content] = shuffled[content], token_id
    file["model"]["vocab"] = shuffled
    return file


def bytes_missing() -> Json:
    return trained(split_like(QWEN_PATTERN), all_bytes=False)


def pattern_with_gaps() -> Json:
    return trained(split_like(r"[a-z]+|\d"))


def token_that_merges_cannot_make() -> Json:
    file = gpt2_like()
    file["model"]["vocab"]["qz"] = len(file["model"]["vocab"])
    return file


SHAPES: list[Callable[[], Json]] = [
    gpt2_like,
    gpt2_like_with_prefix_space,
    qwen_like,
    llama3_like,
    ids_out_of_merge_order,
    bytes_missing,
    pattern_with_gaps,
    token_that_merges_cannot_make,
]

# Characters that this Python's Unicode knows: two regex engines may differ on newer ones.
KNOWN_CHARACTERS = st.characters(exclude_categories=("Cs", "Cn", "Co"))
SPECIALS = ("<|im", "<|im_start|>", "<|im_end|>", "<think>", "<|eot_id|>", "<|endoftext|>", "n\u00e9")
WORDS = ("n", "e\u0301", "\u0338", "xqzwv", " xqzwv", "bbb", "'LL", "12345", "the", "qz", "ß", "👍🏽")
FRAGMENTS = st.sampled_from((*SPECIALS, *WORDS, " ", "  ", "\n", "\r\n"))
TEXTS = st.lists(FRAGMENTS | st.text(KNOWN_CHARACTERS, max_size=8), max_size=20).map("".join)


def folder(tmp_path: Path, tokenizer: Json, **files: Any) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape.__name__)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenCounter, Any]:
    """Ours and the `tokenizers` library's, from one file."""
    path = folder(tmp_path_factory.mktemp("model"), request.param())
    return TokenCounter.from_folder(path), Tokenizer.from_file(str(path / "tokenizer.json"))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS)
def test_any_text_gets_the_ids_that_tokenizers_gives(pair: tuple[TokenCounter, Any], text: str) -> None:
    ours, reference = pair
    assert ours.encode(text) == reference.encode(text, add_special_tokens=False).ids


def test_a_completion_counts_the_tokens_that_the_post_processor_adds(pair: tuple[TokenCounter, Any]) -> None:
    ours, reference = pair
    prompt = "They're 12 lazy dogs."
    assert ours.count_completion({"prompt": prompt}) == len(reference.encode(prompt).ids)
    bare = len(reference.encode(prompt, add_special_tokens=False).ids)
    assert ours.count_completion({"prompt": prompt, "add_special_tokens": False}) == bare


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.lists(st.sampled_from("0123456789+-*=() \n") | KNOWN_CHARACTERS, max_size=60).map("".join))
def test_the_shipped_reasoner_is_counted_exactly(text: str) -> None:
    reference = Tokenizer.from_file(str(TINYMATH / "tokenizer.json"))
    chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ids = reference.encode(chat, add_special_tokens=False).ids
    assert SHIPPED.encode(chat) == ids
    assert SHIPPED.count_chat({"messages": [{"role": "user", "content": text}]}) == len(ids)


class TestCompletions:
    def test_token_ids_are_counted_as_they_are(self) -> None:
        assert SHIPPED.count_completion({"prompt": [5, 6, 7]}) == 3
        assert SHIPPED.count_completion({"prompt": [[5, 6, 7], [8]]}) == 4

    def test_several_prompts_are_summed(self) -> None:
        one = SHIPPED.count_completion({"prompt": "1+2"})
        assert one is not None
        assert SHIPPED.count_completion({"prompt": ["1+2", "1+2"]}) == 2 * one

    def test_truncation_is_respected(self) -> None:
        assert SHIPPED.count_completion({"prompt": "1+2=3", "truncate_prompt_tokens": 2}) == 2

    @pytest.mark.parametrize(
        "body", [{}, {"prompt": None}, {"prompt": []}, {"prompt": ["a", None]}, {"prompt_embeds": "AAAA"}]
    )
    def test_what_is_no_prompt_has_no_count(self, body: Json) -> None:
        assert SHIPPED.count_completion(body) is None

    def test_the_configuration_overrides_the_post_processor(self, tmp_path: Path) -> None:
        config = {"add_bos_token": True, "bos_token": {"content": "<|eot_id|>"}, "add_eos_token": False}
        with_bos = TokenCounter.from_folder(folder(tmp_path, qwen_like(), tokenizer_config=config))
        without = with_bos.count_completion({"prompt": "fox", "add_special_tokens": False})
        assert without is not None
        assert with_bos.count_completion({"prompt": "fox"}) == without + 1

    def test_a_text_on_which_the_pattern_gives_up_has_no_count(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        counter = TokenCounter.from_folder(folder(tmp_path, gpt2_like()))
        assert counter.count_completion({"prompt": " " * 1_000_000 + "x"}) is None
        assert counter.count_completion({"prompt": "fox"}) is not None


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    body=st.dictionaries(
        st.sampled_from(["messages", "tools", "prompt", "chat_template_kwargs", "truncate_prompt_tokens"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "tool_calls", "function"]), inner)
            ),
            max_leaves=10,
        ),
    )
)
def test_no_body_however_odd_raises(body: Json) -> None:
    for count in (SHIPPED.count_chat(body), SHIPPED.count_completion(body)):
        assert count is None or count >= 0


def changed(**changes: Any) -> Json:
    return {**gpt2_like(), **changes}


def model(**changes: Any) -> Json:
    file = gpt2_like()
    return {**file, "model": {**file["model"], **changes}}


def sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": list(steps)}


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
UNSUPPORTED: Mapping[str, Callable[[], Json]] = {
    "Unigram": lambda: changed(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}),
    "WordLevel": lambda: changed(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
    "byte_fallback": lambda: model(byte_fallback=True),
    "end_of_word_suffix": lambda: model(end_of_word_suffix="</w>"),
    "Metaspace": lambda: changed(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}),
    "pre-tokenizer \\[\\]": lambda: changed(pre_tokenizer=None),
    "Digits": lambda: changed(pre_tokenizer=sequence({"type": "Digits", "individual_digits": True}, LEVEL)),
    "behavior MergedWithNext": lambda: changed(
        pre_tokenizer=sequence(
            {"type": "Split", "pattern": {"Regex": " "}, "behavior": "MergedWithNext", "invert": False},
            {**LEVEL, "use_regex": False},
        )
    ),
    "plain string": lambda: changed(
        pre_tokenizer=sequence(
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False},
            {**LEVEL, "use_regex": False},
        )
    ),
    "does not compile": lambda: changed(
        pre_tokenizer=sequence(
            {"type": "Split", "pattern": {"Regex": "(?<a"}, "behavior": "Isolated", "invert": False},
            {**LEVEL, "use_regex": False},
        )
    ),
    "normalizer Lowercase": lambda: changed(normalizer={"type": "Lowercase"}),
    "lstrip": lambda: changed(
        added_tokens=[{"id": 0, "content": "<m>", "lstrip": True, "special": True, "normalized": False}]
    ),
    "post-processor": lambda: changed(post_processor={"type": "Novel"}),
    "malformed": lambda: {"model": {"type": "BPE"}, "pre_tokenizer": LEVEL},
    # Under `ignore_merges` "qz" is one token as a whole word, but not inside "qzx"; tiktoken would merge it there.
    "tiktoken would merge": lambda: model(vocab={**gpt2_like()["model"]["vocab"], "qz": 2000}, ignore_merges=True),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_other_kinds_say_why_they_are_unsupported(reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizer, match=reason):
        TokenCounter.from_folder(folder(tmp_path, UNSUPPORTED[reason]()))


def test_a_folder_without_a_tokenizer_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFileMissing) as caught:
        TokenCounter.from_folder(tmp_path)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, TokenizerError)


def test_a_difference_from_tokenizers_is_found_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path, qwen_like())
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: text)
    with pytest.raises(UnsupportedTokenizer, match="differ"):
        TokenCounter.from_folder(path)


def test_tokenizers_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(tmp_path, qwen_like())
    expected = TokenCounter.from_folder(path).encode("né <think> fox")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert TokenCounter.from_folder(path).encode("né <think> fox") == expected


def test_models_whose_chats_are_rendered_by_code_have_no_chat_count(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    template = {"chat_template": "{{ messages[0].content }}"}
    plain = TokenCounter.from_folder(folder(tmp_path, gpt2_like(), tokenizer_config=template))
    assert plain.count_chat(chat) is not None
    harmony = TokenCounter.from_folder(folder(tmp_path, gpt2_like(), config={"model_type": "gpt_oss"}))
    assert harmony.count_chat(chat) is None


def test_folders_of_one_vocabulary_share_it_and_others_do_not(tmp_path: Path) -> None:
    """Models of one family differ in their chat templates and configurations only."""
    shared, tokenizer = SharedBpes(), qwen_like()
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    adds_bos = {"tokenizer_config": {"bos_token": "<|im_start|>", "add_bos_token": True}}
    a, b = (folder(tmp_path / name, tokenizer, config={"hidden_size": i}) for i, name in enumerate("ab"))
    c = folder(tmp_path / "c", tokenizer, **adds_bos)
    read = [shared.read(one)[0] for one in (a, b, c)]
    assert read[0] is read[1] and read[2] is not read[0]
    alone, together = TokenCounter.from_folder(b), TokenCounter.from_folder(b, shared)
    assert together.encode("The quick fox") == alone.encode("The quick fox")
