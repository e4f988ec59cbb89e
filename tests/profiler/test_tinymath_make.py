"""The training run as a whole, on a CPU with tiny sizes, and the sampler against transformers' own."""

import json
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from profiler.tinymath import make, sample, verifiers  # noqa: E402
from profiler.tinymath.decode import Decoder, Sampling  # noqa: E402
from profiler.tinymath.make_recipe import PARTS, SHARES  # noqa: E402
from profiler.tinymath.train_evaluation import ask  # noqa: E402
from profiler.tinymath.train_loop import Clock, learning_rate  # noqa: E402
from profiler.tinymath.train_models import load_policy  # noqa: E402
from profiler.tinymath.verifiers import by_length  # noqa: E402

torch.set_num_threads(1)  # models this small lose more than they gain by threads, above all beside other tests

SHIPPED = Path(__file__).parents[2] / "profiler" / "tinymath" / "weights"
TINY = ["--tiny", "--minutes", "0.2"]


def test_the_shares_leave_time_for_evaluations() -> None:
    assert sum(SHARES.values()) < 0.95


def test_greedy_decoding_is_that_of_transformers() -> None:
    model = load_policy(SHIPPED / "draft")
    prompts = [one.prompt_ids for one in ask(3)]
    expected = [
        model.generate(torch.tensor([ids], device=model.device), do_sample=False, max_new_tokens=80)[0, len(ids) :]
        for ids in prompts
    ]
    found = Decoder(model).generate(prompts, Sampling(max_new_tokens=80, temperature=0.0))
    assert found == [row.tolist() for row in expected]


def test_sampled_answers_of_a_prompt_differ_and_repeat_with_the_seed() -> None:
    decoder, prompts = Decoder(load_policy(SHIPPED / "draft")), [one.prompt_ids for one in ask(2)]
    drawn = decoder.generate(prompts, Sampling(40, samples=3, seed=1))
    assert len(drawn) == 6
    assert drawn[0] != drawn[1]
    assert drawn == decoder.generate(prompts, Sampling(40, samples=3, seed=1))


def test_the_clock_starts_after_compilation_and_ends_at_the_deadline_all_the_same() -> None:
    now = 0.0
    clock = Clock(100.0, now=lambda: now)
    now = 40.0
    assert clock.share_at(3) == 0.0  # still compiling
    assert clock.share_at(10) == 0.0
    now = 70.0
    assert clock.share_at(11) == pytest.approx(0.5)
    now = 100.0
    assert clock.share_at(3) == 1.0


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(0.01)
    assert learning_rate(1.0, 500, 0.4) == 1.0
    assert learning_rate(1.0, 500, 0.75) == pytest.approx(0.5)
    assert learning_rate(1.0, 500, 1.0) == pytest.approx(0.01)


def test_answers_are_batched_by_length_within_the_limit() -> None:
    lengths = [Random(0).randint(1, 50) for _ in range(40)]
    groups = by_length(lengths, 100)
    assert sorted(index for group in groups for index in group) == list(range(40))
    assert all(len(group) * max(lengths[index] for index in group) <= 100 for group in groups)


def test_one_command_makes_the_family_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "family"
    make.main(["--out", str(out), *TINY, "--until", "draft"])
    assert not (out / "prm").exists()
    kept = (out / "m" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()

    make.main(["--out", str(out), *TINY])
    said = capsys.readouterr().out
    assert "prm: done" in said
    assert "m: done" not in said.replace("prm: done", "").replace("orm: done", "")
    assert (out / "m" / "model.safetensors").stat().st_mtime_ns == kept

    policy = json.loads((out / "m" / "eval.json").read_text())
    assert {"pass@1", "greedy", "vote@16", "pass@16", "by_budget", "by_forced_rechecks"} <= set(policy)
    assert set(json.loads((out / "draft" / "eval.json").read_text())) == {"s", "m"}
    for kind, architecture in (("orm", "Qwen3ForSequenceClassification"), ("prm", "Qwen3ForTokenClassification")):
        config = json.loads((out / kind / "config.json").read_text())
        assert config["architectures"] == [architecture]
        assert config["id2label"] == {"0": "wrong", "1": "right"}
        assert (out / kind / "tokenizer.json").exists()
        assert "best_of@16" in json.loads((out / kind / "eval.json").read_text())["m"]["last"]
    assert all((out / part).exists() for part in PARTS if part != "data")

    rows = [one.prompt_ids for one in ask(3)]
    model = verifiers.load(out / "prm", "prm")
    together = verifiers.scores(model, "prm", rows)
    alone = [verifiers.scores(model, "prm", [row])[0] for row in rows]
    assert [len(one) for one in together] == [len(row) for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_family_goes_on_from_an_earlier_one(tmp_path: Path) -> None:
    """The policy is the earlier one, trained on: with no step of any size it is the same."""
    out = tmp_path / "family"
    start = ["--start", str(SHIPPED), "--rate-factor", "0", "--only", "tokenizer", "data", "s"]
    make.main(["--out", str(out), "--tiny", "--minutes", "0.02", *start])
    ours, theirs = (load_policy(folder / "s").state_dict() for folder in (out, SHIPPED))
    assert all(torch.allclose(ours[name], theirs[name]) for name in theirs)
    assert json.loads((out / "recipe.json").read_text())["start"] == "weights"


def test_the_pool_of_several_models_is_sampled_once_each(tmp_path: Path) -> None:
    order = ["--questions", "3", "--samples", "2", "--max-tokens", "30", "--rows", "4"]
    weights = [str(SHIPPED / name) for name in ("draft", "s")]
    sample.main(["--weights", *weights, "--out", str(tmp_path), *order])
    lines = [json.loads(line) for line in (tmp_path / "s.texts.jsonl").read_text().splitlines()]
    assert [len(line["samples"]) for line in lines] == [2, 2, 2]
    assert all(tokens <= 30 and finish in ("stop", "length") for line in lines for _, tokens, finish in line["samples"])
    written = (tmp_path / "draft.texts.jsonl").stat().st_mtime_ns
    sample.main(["--weights", *weights, "--out", str(tmp_path), *order])
    assert (tmp_path / "draft.texts.jsonl").stat().st_mtime_ns == written
