"""The outcome verifier as a reranker: python -m profiler.tinymath.reranker --out DIR

vLLM's `/score` wants one class. Of two, the probability of the last is the logistic function of the difference of their
logits, so one row, the difference of the head's two, says the same. Needs the `train` extra. Served by

    vllm serve DIR --runner pooling --chat-template DIR/score_template.jinja
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen3ForSequenceClassification

from profiler.tinymath.train_models import save

TEMPLATE = (  # a pair as the chat that the verifier was trained on
    "{% for m in messages %}{{ '<|im_start|>' + ('user' if m.role == 'query' else 'assistant') + '\\n' + m.content"
    " + '<|im_end|>\\n' }}{% endfor %}"
)
WEIGHTS = Path(__file__).parent / "weights/orm"


def one_class(model: Qwen3ForSequenceClassification) -> Qwen3ForSequenceClassification:
    """The same model with a head of one row, in place."""
    wrong, right = model.score.weight.detach().float()
    model.score = torch.nn.Linear(len(right), 1, bias=False)
    model.score.weight.data = (right - wrong)[None]
    model.config.num_labels = model.num_labels = 1
    model.config.id2label, model.config.label2id = {0: "right"}, {"right": 0}
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orm", type=Path, default=WEIGHTS, help="the outcome verifier")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    save(one_class(Qwen3ForSequenceClassification.from_pretrained(options.orm)), options.out)
    (options.out / "score_template.jinja").write_text(TEMPLATE)


if __name__ == "__main__":
    main()
