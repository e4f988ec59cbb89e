"""Where the steps of an answer end, in its tokens."""

import pytest

from proxy.pooled import step_ends


@pytest.mark.parametrize(
    ("tokens", "mark", "ends"),
    [
        (["a", "Ċ", "b"], None, [1, 2]),
        (["a", "\n\n", "b", "Ċ", "Ċ", "c"], None, [1, 4, 5]),
        (["a", ".Ċ", "b"], None, [1, 2]),
        (["a", "b"], None, [1]),
        (["a", "Ċ"], None, [1]),
        (["Ċ", "Ċ"], None, [1]),
        (["a", "<s>", "Ċ", "b", "<s>"], "<s>", [1, 4]),
        ([], None, []),
    ],
)
def test_steps_end_at_new_lines_or_marks_and_at_the_end(tokens: list[str], mark: str | None, ends: list[int]) -> None:
    prompt = ["<user>", "Ċ"]

    assert step_ends([*prompt, *tokens], 2, mark) == [2 + end for end in ends]
