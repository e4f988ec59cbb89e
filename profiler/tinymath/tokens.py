"""The tokenizer: byte-level BPE of 512 tokens, each digit a token of its own, ChatML turns.

It was trained once, on texts of the first recipe, and is shipped with every model: models that are used together
(policy, draft, verifier) read the same tokens, and a count of tokens never changes with new weights.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE: Final = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PAD_ID, TURN_END_ID, THINK_ID, END_THINK_ID = 0, 2, 3, 4
CHAT_TEMPLATE: Final = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
SHIPPED: Final = Path(__file__).parent / "weights" / "s" / "tokenizer.json"


def prompt(question: str) -> str:
    """What CHAT_TEMPLATE makes of a single user message."""
    return f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"


def chat_tokenizer(tokenizer_file: Path = SHIPPED) -> "PreTrainedTokenizerFast":
    """The BPE as transformers and vLLM load it, chat template included."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), eos_token=TURN_END, pad_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encoded(texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text; the special tokens in it count as such, none is added."""
    return [list(encoding.ids) for encoding in bpe().encode_batch(list(texts), add_special_tokens=False)]


def decoded(rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row of ids, special tokens included."""
    return list(bpe().decode_batch([list(row) for row in rows], skip_special_tokens=False))


@cache
def bpe() -> Tokenizer:
    """The tokenizer itself, read once."""
    return Tokenizer.from_file(str(SHIPPED))
