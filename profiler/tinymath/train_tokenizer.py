"""The tokenizer: byte-level BPE of 512 tokens, each digit a token of its own, ChatML turns."""

from random import Random
from typing import TYPE_CHECKING, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from profiler.tinymath.task import TOKENIZER_SEED, draw
from profiler.tinymath.traces import make_trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE: Final = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, TURN_START, TURN_END, "<think>", "</think>")
CHAT_TEMPLATE: Final = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
_TEXTS: Final = 4000


def prompt(question: str) -> str:
    """What CHAT_TEMPLATE makes of a single user message."""
    return f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"


def train_bpe() -> Tokenizer:
    """Train the BPE on texts of the task itself, a few seconds of one core."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"\d| ?[^\s\d]+|\s+"), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(_texts(), trainer)
    return bpe


def as_chat_tokenizer(bpe: Tokenizer) -> "PreTrainedTokenizerFast":
    """The BPE as transformers and vLLM load it, chat template included."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=TURN_END, pad_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts() -> list[str]:
    rng = Random(TOKENIZER_SEED)
    return [_text(rng) for _ in range(_TEXTS)]


def _text(rng: Random) -> str:
    question, problem = draw(rng)
    answer = "".join(segment.text for segment in make_trace(rng, problem).segments)
    return prompt(question.question).replace(TURN_START, "").replace(TURN_END, "") + answer
