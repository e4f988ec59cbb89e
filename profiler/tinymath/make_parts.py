"""The parts of a training run: each is made from what earlier parts left on disk, and left there itself."""

import json
import time
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification, Qwen3ForTokenClassification

from profiler.tinymath import train_evaluation, train_texts, verifier_evaluation, verifiers
from profiler.tinymath.decode import Decoder
from profiler.tinymath.make_recipe import POLICIES, Recipe
from profiler.tinymath.tokens import chat_tokenizer
from profiler.tinymath.train_data import load_or_build, on_all_cores
from profiler.tinymath.train_draft import acceptance
from profiler.tinymath.train_evaluation import Answered, ask
from profiler.tinymath.train_loop import Sequences, next_token_loss, run
from profiler.tinymath.train_models import config, device, load_policy, save
from profiler.tinymath.verifier_data import SYNTHETIC_SEED, Example, synthetic_chunk

DRAFT_ON_DATA: Final = 0.4
"""Share of the draft's time on the training data, before the texts of the policies it is to foresee."""


class Maker:
    """The parts of one run, each a method of its name; what a part needs from another it reads from DIR."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._out, self._started = recipe, recipe.out, time.monotonic()
        self._labelled: tuple[list[Example], list[Example]] | None = None

    def make(self) -> None:
        """Every part that was asked for and is not there yet, in order."""
        self._out.mkdir(parents=True, exist_ok=True)
        (self._out / "recipe.json").write_text(json.dumps(self._recipe.as_json(), indent=2) + "\n")
        for part in self._recipe.parts():
            if not self._is_finished(part):
                began = time.monotonic()
                self._say(f"{part}: up to {self._recipe.seconds(part):.0f} s and its evaluation")
                getattr(self, f"make_{part}")()
                self._say(f"{part}: done in {time.monotonic() - began:.0f} s")

    def make_tokenizer(self) -> None:
        chat_tokenizer().save_pretrained(self._out / "tokenizer")

    def make_data(self) -> None:
        row = self._data()
        self._say(f"{len(row.ids) / 1e6:.1f}M tokens, {row.trained.mean():.0%} of them trained on")

    def make_s(self) -> None:
        self._make_policy("s")

    def make_m(self) -> None:
        self._make_policy("m")

    def make_texts(self) -> None:
        (self._out / "texts").mkdir(exist_ok=True)
        for index, name in enumerate(POLICIES):
            file = self._texts_file(name)
            if file.exists():
                continue
            texts = train_texts.sample_texts(
                Decoder(load_policy(self._out / name)),
                self._recipe.seconds("texts") / len(POLICIES),
                self._recipe.texts_per_batch,
                self._recipe.max_new_tokens,
                train_texts.first_seed(index),
            )
            train_texts.store(texts, file)
            self._say(f"texts of {name}: {len(texts.lengths)}, {texts.lengths.mean():.0f} tokens each")

    def make_draft(self) -> None:
        recipe, directory = self._recipe, self._out / "draft"
        if not directory.exists():
            began = time.monotonic()
            texts = train_texts.as_token_row([train_texts.load(self._texts_file(name)) for name in POLICIES])
            first = Sequences(self._data(), recipe.batch_size, device())
            then = Sequences(texts, recipe.batch_size, device())
            model = self._new_model("draft")

            def loss(share: float) -> torch.Tensor:
                return next_token_loss(model, *(first if share < DRAFT_ON_DATA else then).draw())

            seconds = max(1.0, recipe.seconds("draft") - (time.monotonic() - began))
            self._train(model, loss, "draft", seconds)
            save(model, directory)
        draft = load_policy(directory)
        self._report("draft", {n: acceptance(draft, load_policy(self._out / n), self._sampled(n)) for n in POLICIES})

    def make_prm(self) -> None:
        directory = self._out / "prm"
        if not directory.exists():
            began = time.monotonic()
            examples = self._examples()
            model = self._earlier(Qwen3ForTokenClassification, "prm") or verifiers.prm_from_policy(
                load_policy(self._out / POLICIES[-1])
            )
            share = verifiers.Share()
            loss = share.seen_by(verifiers.process_loss(model, self._batches(examples, share)))
            self._train(model, loss, "prm", max(1.0, self._recipe.seconds("prm") - (time.monotonic() - began)))
            save(model, directory)
        self._evaluate_verifier("prm")

    def make_orm(self) -> None:
        directory = self._out / "orm"
        if not directory.exists():
            began = time.monotonic()
            examples = self._examples()
            prm = Qwen3ForTokenClassification.from_pretrained(self._out / "prm").to(device())
            model, lines = verifiers.orm_from_prm(prm)
            model = self._earlier(Qwen3ForSequenceClassification, "orm") or model
            share = verifiers.Share()
            loss = share.seen_by(verifiers.outcome_loss(model, lines, self._batches(examples, share)))
            self._train(model, loss, "orm", max(1.0, self._recipe.seconds("orm") - (time.monotonic() - began)))
            save(model, directory)
        self._evaluate_verifier("orm")

    def _make_policy(self, name: str) -> None:
        recipe, directory = self._recipe, self._out / name
        if not directory.exists():
            began = time.monotonic()
            batches = Sequences(self._data(), recipe.batch_size, device())
            model = self._new_model(name)
            forward = self._compiled(model, batches)
            seconds = max(1.0, recipe.seconds(name) - (time.monotonic() - began))
            self._train(model, lambda _share: next_token_loss(forward, *batches.draw()), name, seconds)
            save(model, directory)
        asked = ask(recipe.evaluation_questions)
        figures, sampled = train_evaluation.evaluate(Decoder(load_policy(directory)), asked, recipe.max_new_tokens)
        (self._out / "samples").mkdir(exist_ok=True)
        self._samples_file(name).write_text(json.dumps([answered.ids for answered in sampled]))
        self._report(name, figures)

    def _compiled(self, model: Qwen3ForCausalLM, batches: Sequences) -> Any:
        """The model compiled where that was asked for and works on this machine."""
        if not self._recipe.compiled or device().type != "cuda":
            return model
        forward = torch.compile(model)
        try:
            next_token_loss(forward, *batches.draw()).backward()
        except Exception as error:  # compilers fail in many ways, and the uncompiled model is only slower
            self._say(f"not compiled: {type(error).__name__}: {error}")
            return model
        return forward

    def _train(self, model: Any, loss: Any, name: str, seconds: float) -> None:
        size = sum(parameter.numel() for parameter in model.parameters())
        self._say(f"{name}: {size:,} parameters on {device().type}, {seconds:.0f} s")
        steps = run(model, loss, self._recipe.learning_rate(name), seconds, lambda line: self._say(f"{name}: {line}"))
        self._say(f"{name}: {steps} steps")

    def _evaluate_verifier(self, kind: verifiers.Kind) -> None:
        model = verifiers.load(self._out / kind, kind)
        self._report(kind, {n: verifier_evaluation.evaluate(model, kind, self._sampled(n)) for n in POLICIES})

    def _examples(self) -> tuple[list[Example], list[Example]]:
        """Made and sampled answers with their labels; the two verifiers share them."""
        if self._labelled is not None:
            return self._labelled
        recipe = self._recipe
        sampled = train_texts.as_examples([train_texts.load(self._texts_file(name)) for name in POLICIES])
        jobs = ((SYNTHETIC_SEED + index, recipe.synthetic_chunk) for index in count())
        limited = (job for job, _ in zip(jobs, range(recipe.synthetic_chunks), strict=False))
        made = [one for chunk in on_all_cores(synthetic_chunk, limited, recipe.seconds("prm") * 0.1) for one in chunk]
        self._say(f"{len(made)} made and {len(sampled)} sampled answers")
        self._labelled = made, sampled
        return self._labelled

    def _batches(self, examples: tuple[list[Example], list[Example]], share: verifiers.Share) -> Any:
        made, sampled = (verifiers.endless_batches(part, self._recipe.verifier_batch_tokens) for part in examples)
        return verifiers.mixed(made, sampled, share)

    def _sampled(self, name: str) -> list[Answered]:
        """The evaluation answers of a policy, as its own evaluation stored them."""
        stored = json.loads(self._samples_file(name).read_text())
        return [train_evaluation.answered(one, ids) for one, ids in zip(ask(len(stored)), stored, strict=True)]

    def _data(self) -> Any:
        recipe = self._recipe
        return load_or_build(self._out / "data.npz", recipe.examples, recipe.habits, recipe.seconds("data"))

    def _new_model(self, name: str) -> Qwen3ForCausalLM:
        torch.manual_seed(self._recipe.seed)
        return self._earlier(Qwen3ForCausalLM, name) or Qwen3ForCausalLM(config(self._recipe.shapes[name])).to(device())

    def _earlier(self, kind: Any, name: str) -> Any:
        """What `--start` has of this part, in float32; None where it has nothing."""
        if self._recipe.start is None or not (self._recipe.start / name).exists():
            return None
        return kind.from_pretrained(self._recipe.start / name).float().to(device())

    def _texts_file(self, name: str) -> Path:
        return self._out / "texts" / f"{name}.npz"

    def _samples_file(self, name: str) -> Path:
        return self._out / "samples" / f"{name}.json"

    def _is_finished(self, part: str) -> bool:
        match part:
            case "tokenizer":
                return (self._out / "tokenizer" / "tokenizer.json").exists()
            case "data":
                return (self._out / "data.npz").exists()
            case "texts":
                return all(self._texts_file(name).exists() for name in POLICIES)
            case _:
                return (self._out / part / "eval.json").exists()

    def _report(self, name: str, figures: dict[str, Any]) -> None:
        self._say(f"{name}: {json.dumps(figures)}")
        (self._out / name / "eval.json").write_text(json.dumps(figures, indent=2) + "\n")

    def _say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started:5.0f} s] {line}", flush=True)
