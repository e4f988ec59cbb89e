"""How many tokens a request's prompt has, known before routing: no backend asked, nothing downloaded."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from jinja2 import TemplateError

from proxy.byte_level_bpe import SAMPLES, ByteLevelBpe, UncountableText
from proxy.chat_messages import UncountableChat
from proxy.chat_template import ChatTemplate
from proxy.tokenizer_json import ByteLevelSpec, UnsupportedTokenizer, read_json, read_spec

# Chats of these are rendered by code, not by a template (vLLM: gpt-oss by openai-harmony, the others by
# the renderers of `renderers/registry.py`).
_RENDERED_BY_CODE = ("gpt_oss", "deepseek_v32", "deepseek_v4", "kimi_k3", "inkling")


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # all that `read_spec` reads


class SharedBpes:
    """Vocabularies by what their files say: models of one family have the same, in folders of their own."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[ByteLevelBpe, int]] = {}

    def read(self, folder: Path) -> tuple[ByteLevelBpe, int]:
        """The folder's vocabulary, and how many tokens it puts around a text. Raises as `read_spec` does."""
        digest = sha256()
        for name in TOKENIZER_FILES:
            path = folder / name
            digest.update(sha256(path.read_bytes()).digest() if path.is_file() else b"-")
        key = digest.digest()
        if key not in self._known:
            spec = read_spec(folder)
            bpe = ByteLevelBpe(spec)
            _compare_with_tokenizers(folder / "tokenizer.json", spec, bpe)
            self._known[key] = bpe, spec.wrapping_tokens
        return self._known[key]


class TokenCounter:
    """Counts a model's prompt tokens as vLLM would. Immutable; caches nothing; safe to share."""

    def __init__(self, bpe: ByteLevelBpe, wrapping_tokens: int, template: ChatTemplate | None) -> None:
        self._bpe = bpe
        self._wrapping_tokens = wrapping_tokens
        self._template = template

    @classmethod
    def from_folder(cls, path: Path, shared: SharedBpes | None = None) -> Self:
        """Load a model folder's `tokenizer.json` and chat template; seconds for a vocabulary of 150,000.

        Raises `TokenizerFileMissing` (a `FileNotFoundError`) or `UnsupportedTokenizer`. If the package
        `tokenizers` is installed, its ids for sample texts must be the same.
        """
        bpe, wrapping_tokens = (shared or SharedBpes()).read(path)
        return cls(bpe, wrapping_tokens, _template(path))

    def encode(self, text: str) -> list[int]:
        """The backend's ids of a text: special tokens recognised, none added. Raises `UncountableText`."""
        return self._bpe.encode(text)

    def count_chat(self, body: Mapping[str, Any]) -> int | None:
        """Prompt tokens of a chat completion request.

        None where they cannot be known here: images and other media, a model without a template, and
        requests that the template or vLLM refuses.
        """
        if self._template is None:
            return None
        try:
            prompt = self._template.render(body)
        except UncountableChat:
            return None
        return self._count(prompt, body, wrapped=body.get("add_special_tokens", False))

    def count_completion(self, body: Mapping[str, Any]) -> int | None:
        """Prompt tokens of a text completion request, summed over its prompts.

        A list of token ids is counted as it is. None for `prompt_embeds` and for what is no prompt.
        """
        prompt = body.get("prompt")
        if body.get("prompt_embeds") is not None:
            return None
        prompts = prompt if isinstance(prompt, list) and not _is_ids(prompt) else [prompt]
        counts = [self._count(one, body, wrapped=body.get("add_special_tokens", True)) for one in prompts]
        known = [count for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    def _count(self, prompt: Any, body: Mapping[str, Any], *, wrapped: Any) -> int | None:
        if isinstance(prompt, str):
            try:
                count = len(self._bpe.encode(prompt)) + (self._wrapping_tokens if wrapped else 0)
            except UncountableText:
                return None
        elif isinstance(prompt, list) and _is_ids(prompt):
            count = len(prompt)
        else:
            return None
        kept = body.get("truncate_prompt_tokens")
        return min(count, kept) if isinstance(kept, int) and kept >= 0 else count


def _is_ids(prompt: list[Any]) -> bool:
    return bool(prompt) and all(isinstance(item, int) for item in prompt)


def _template(folder: Path) -> ChatTemplate | None:
    config = folder / "config.json"
    model_type = read_json(config).get("model_type") if config.is_file() else None
    if model_type in _RENDERED_BY_CODE or (folder / "tekken.json").is_file():
        return None
    try:
        return ChatTemplate.from_folder(folder)
    except TemplateError:
        return None  # vLLM could not render it either


def _compare_with_tokenizers(path: Path, spec: ByteLevelSpec, bpe: ByteLevelBpe) -> None:
    """Raises `UnsupportedTokenizer` on any difference; does nothing where `tokenizers` is not installed."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    reference = Tokenizer.from_file(str(path))
    reference.no_truncation()
    reference.no_padding()
    # Those that only tokenizer_config.json lists are unknown to the reference.
    added = [t.content for t in spec.added_tokens if reference.token_to_id(t.content) is not None]
    for text in (*SAMPLES, *(f"a {content}{content} b\n{content}" for content in added)):
        if reference.encode(text, add_special_tokens=False).ids != bpe.encode(text):
            raise UnsupportedTokenizer(f"tiktoken and tokenizers differ on {text!r}")
