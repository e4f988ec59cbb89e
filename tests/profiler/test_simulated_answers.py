"""Simulated engines say what the model said: its answers as often, its lengths to the token."""

from pathlib import Path
from random import Random

import pytest

import profiler.tinymath
from profiler.quality_file import QualityError, StoredSample, read_samples
from profiler.simulation.answers import AnswerPool, Text, written
from profiler.simulation.tokenizer import Vocabulary, prompt_of, tokens_of
from strategies.answers.extract import extract

TABLE = Path(profiler.tinymath.__file__).parent / "quality" / "tinymath-s.tinymath.quality.json"
SAMPLES = TABLE.with_name("tinymath-s.tinymath.samples.jsonl")
STORED = list(read_samples(SAMPLES))


@pytest.fixture(scope="module")
def pool() -> AnswerPool:
    return AnswerPool.read([TABLE])


def whole(text: Text) -> str:
    return text.slice(0, text.tokens)


def test_every_stored_sample_is_written_in_its_tokens_and_with_its_answer() -> None:
    for question in STORED:
        for sample in (question.greedy, *question.samples):
            text = whole(written(sample))
            assert len(tokens_of(text)) == sample.tokens == written(sample).tokens
            assert extract(text) == sample.answer


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 6, 8, 12])
@pytest.mark.parametrize("answer", ["7", "\\frac{1}{2}", "x + 1 and y"])
def test_however_short_the_count_is_right(tokens: int, answer: str) -> None:
    text = written(StoredSample(answer, tokens, "stop", True))
    assert text.tokens == tokens
    assert answer in whole(text)
    assert "".join(text.pieces(0, tokens)) == whole(text)


def test_a_sample_without_an_answer_gives_none() -> None:
    assert extract(whole(written(StoredSample(None, 40, "length", False)))) is None
    assert extract(whole(written(StoredSample(None, 40, "stop", False)))) is None


def test_what_goes_on_from_a_thought_ends_it_and_answers() -> None:
    sample = StoredSample("72", 300, "stop", True)
    for after in ("<think>\nWait, let me see", "<think>\nso</think>\nThe"):
        text = written(sample, after=after)
        assert "<think>" not in whole(text)
        assert extract(after + whole(text)) == "72"
    assert written(sample, after="<think>\nWait, let me see").tokens == 300 - 5


def test_any_stretch_is_a_slice_and_a_text_goes_on_beyond_its_end() -> None:
    text = written(StoredSample("72", 300, "stop", True))
    for begin, end in ((0, 1), (0, 300), (17, 33), (295, 300), (290, 310), (320, 350)):
        assert text.slice(begin, end) == "".join(text.pieces(begin, end))
        assert len(text.pieces(begin, end)) == end - begin
    assert len(tokens_of(text.slice(0, 500))) == 500


def test_a_question_of_the_pool_has_its_own_accuracy(pool: AnswerPool) -> None:
    random = Random(1)
    for question in STORED[:5]:
        rate = sum(sample.correct for sample in question.samples) / len(question.samples)
        drawn = [extract(whole(pool.sample(question.question, random, greedy=False))) for _ in range(600)]
        assert drawn.count(question.answer) / 600 == pytest.approx(rate, abs=0.07)
        greedy = whole(pool.sample(question.question, random, greedy=True))
        assert extract(greedy) == question.greedy.answer


def test_a_question_within_other_words_is_found_and_a_strange_one_always_stands_for_the_same(pool: AnswerPool) -> None:
    wrapped = f"Think step by step. {STORED[3].question}\nPut the answer in a box."
    greedy = pool.sample(STORED[3].question, Random(0), greedy=True)
    assert whole(pool.sample(wrapped, Random(0), greedy=True)) == whole(greedy)
    strange = [whole(pool.sample("Who are you?", Random(0), greedy=True)) for _ in range(2)]
    assert strange[0] == strange[1]
    assert pool.prompt_tokens(STORED[3].question) == STORED[3].prompt_tokens
    assert pool.prompt_tokens("Who are you?") is None


def test_samples_that_are_missing_are_told(tmp_path: Path) -> None:
    table = tmp_path / "m.t.quality.json"
    table.write_bytes(TABLE.read_bytes())
    with pytest.raises(QualityError, match=r"m\.t\.samples\.jsonl is missing"):
        AnswerPool.read([table])


def test_without_a_table_questions_are_made_up() -> None:
    pool = AnswerPool([])
    assert pool.made_up
    assert extract(whole(pool.sample("anything", Random(0), greedy=True)))


def test_what_was_encoded_is_decoded_and_ids_are_the_same_in_every_run() -> None:
    text = "What is  2 + 2?\nSay it with extraordinary care. "
    vocabulary = Vocabulary()
    pieces = tokens_of(text)
    assert vocabulary.decode(vocabulary.encode(pieces)) == text
    assert vocabulary.encode(pieces) == Vocabulary().encode(pieces)


def test_prompts_share_the_blocks_of_their_common_beginning() -> None:
    a, b = prompt_of([*range(40), 1, 2, 3]), prompt_of([*range(40), 7])
    assert a.blocks[:2] == b.blocks[:2] and len(a.blocks) == 2
    assert prompt_of([9, *range(40)]).blocks[0] != a.blocks[0]
