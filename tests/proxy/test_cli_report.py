"""`paretoproxy report`, end to end on files."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from profiler import profile_file, quality_file
from profiler.report import ReportError
from profiler.report.points import Comparison
from proxy.cli.report import command
from proxy.config import load
from proxy.report import comparisons, config_of

ROOT = Path(__file__).resolve().parents[2]
QUALITY = ROOT / "profiler/tinymath/quality"


def write_profile(folder: Path, name: str, **environment: Any) -> None:
    profile = msgspec.structs.replace(
        profile_file.wide_prior(name), environment={"vllm": "0.0", **environment}, residual_sigma=0.1
    )
    profile_file.write(profile, folder / f"{name}.json")


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    folder = tmp_path / "profiles"
    write_profile(folder, "m-tp1", model="tinymath-m", parameters=4_850_000)
    write_profile(folder, "s-tp1", model="tinymath-s", parameters=850_000)
    ngram = {"method": "ngram", "num_speculative_tokens": 4}
    write_profile(folder, "s-ngram", model="tinymath-s", speculative=ngram)
    write_profile(folder, "s-tp2", model="tinymath-s", tensor_parallel_size=2, modelled=True)
    return folder


@pytest.fixture
def fleet(tmp_path: Path, profiles: Path) -> Path:
    def backend(name: str, **members: Any) -> dict[str, Any]:
        where = {"name": name, "url": "http://127.0.0.1:9", "profile": f"profiles/{name}.json"}
        return {**where, "gpu_hour_usd": 3.0, **members}

    def model(name: str, *backends: dict[str, Any]) -> dict[str, Any]:
        table = str(QUALITY / f"{name}.tinymath.quality.json")
        return {"name": name, "task": "tinymath", "quality": {"tinymath": table}, "backends": list(backends)}

    models = [
        {"name": "tinymath", "any_of": ["tinymath-m", "tinymath-s"]},
        model("tinymath-m", backend("m-tp1", api_key_env="A_KEY_THAT_IS_NOT_SET")),
        model("tinymath-s", backend("s-tp1"), backend("s-ngram", sampling="greedy", speculative={"method": "ngram"})),
    ]
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({"slo": {"percentile": 0.9}, "models": models}))
    return path


def report(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def only(found: list[Comparison]) -> Comparison:
    assert len(found) == 1
    return found[0]


def test_all_models_of_a_task_are_compared_and_greedy_engines_run_greedy_plans_only(fleet: Path) -> None:
    comparison = only(comparisons(load(fleet)))

    assert [model.model for model in comparison.models] == ["tinymath-m", "tinymath-s"]
    assert comparison.tail == "p90"
    assert [point.greedy for point in comparison.points if point.engine.name == "s-ngram"] == [True]
    assert all(point.cost_usd is not None and point.tail_ms > point.median_ms for point in comparison.points)


def test_plans_that_overflow_an_engine_are_not_shown(fleet: Path) -> None:
    most = profile_file.wide_prior("x").max_num_seqs
    beside = only(comparisons(load(fleet), load=most - 3))
    assert {point.branches for point in beside.points} == {1, 2, 3}
    with pytest.raises(ReportError, match="no plan can run for task 'tinymath' beside"):
        comparisons(load(fleet), load=most)


def test_load_slows_and_a_longer_prompt_slows(fleet: Path) -> None:
    config = load(fleet)
    idle, busy, long = (
        only(found).points[0]
        for found in (comparisons(config), comparisons(config, load=8), comparisons(config, prompt_tokens=5000))
    )
    assert busy.tail_ms > idle.tail_ms and long.tail_ms > idle.tail_ms
    assert busy.idle_gpu_seconds == idle.idle_gpu_seconds and busy.gpu_seconds < idle.gpu_seconds


def test_profiles_alone_make_a_fleet_without_prices_matched_to_tables_by_model(profiles: Path) -> None:
    comparison = only(comparisons(config_of(profiles, QUALITY)))

    engines = [engine for model in comparison.models for engine in model.engines]
    assert [(one.name, one.label) for one in engines] == [
        ("m-tp1", "TP 1, no speculation"),
        ("s-tp1", "TP 1, no speculation"),
        ("s-tp2", "TP 2, no speculation"),
        ("s-ngram", "TP 1, ngram k=4"),
    ]
    assert [one.parameters for one in engines] == [4_850_000, 850_000, 850_000, 850_000]
    assert [one.gpus for one in engines] == [1, 1, 2, 1]
    assert not any(model.assumed for model in comparison.models) and not comparison.priced


def test_without_a_table_the_accuracy_is_assumed_and_the_page_says_so_loudly(profiles: Path, tmp_path: Path) -> None:
    result = report("--profiles", profiles, "--out", tmp_path / "r.html")

    assert result.exit_code == 0, result.output
    page = (tmp_path / "r.html").read_text()
    assert "The accuracy of tinymath-m is assumed, not measured" in page
    assert "no price" in page and "modelled, not measured" in page


def test_the_page_is_self_contained_and_has_the_table(fleet: Path, tmp_path: Path) -> None:
    result = report("--config", fleet, "--out", tmp_path / "sub/r.html", "--slo-ms", 20000)

    assert result.exit_code == 0, result.output
    page = (tmp_path / "sub/r.html").read_text()
    assert "default-src 'none'" in page
    assert re.findall(r"<(?:link|img|iframe)\b|\bsrc=|@import|url\(http", _markup(page)) == []
    assert _markup(page).count("<tr data-point=") == len(only(comparisons(load(fleet))).points)
    assert "For 20\u00a0s, run <strong>" in page
    assert "self-consistency:8" in page and "m-tp1" in page


def test_the_script_gets_the_choice_for_every_deadline(fleet: Path, tmp_path: Path) -> None:
    report("--config", fleet, "--out", tmp_path / "r.html")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', (tmp_path / "r.html").read_text())

    assert found is not None
    (section,) = json.loads(found[1])
    assert section["low_ms"] < section["deadline_ms"] < section["high_ms"]
    assert [step["from_ms"] for step in section["steps"]] == sorted(step["from_ms"] for step in section["steps"])
    assert len(section["charts"]) == 4  # two models, latency and cost
    assert section["steps"][0]["system"] == -1 and section["steps"][-1]["system"] >= 0


def test_names_from_files_cannot_become_markup(tmp_path: Path) -> None:
    write_profile(tmp_path / "p", "<b>backend", model="<b>model")

    report("--profiles", tmp_path / "p", "--out", tmp_path / "r.html")

    page = (tmp_path / "r.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;model" in page and "&lt;b&gt;backend" in page and "\\u003cb>backend" in page


def test_markdown_goes_to_standard_output(fleet: Path) -> None:
    result = report("--config", fleet, "--markdown", "--slo-ms", 1, "--slo-ms", 60000)

    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 4
    assert lines[2].startswith("| 1 ms | none in time |") and lines[3].startswith("| 60 s | ")


def test_only_the_models_asked_for(fleet: Path) -> None:
    assert "m-tp1" not in report("--config", fleet, "--markdown", "--model", "tinymath-s").stdout
    with pytest.raises(ReportError, match="no model is named 'x'; there are tinymath-m, tinymath-s"):
        comparisons(load(fleet), models=["x"])


def test_without_the_plotting_library_it_says_what_to_install(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)

    result = report("--config", fleet, "--out", tmp_path / "r.html")

    assert isinstance(result.exception, ReportError)
    assert str(result.exception) == "the page needs vl-convert: pip install 'paretoproxy[report]'"
    assert report("--config", fleet, "--markdown").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--markdown"], "give either --config or --profiles"),
        (["--config", "a", "--profiles", "b", "--markdown"], "give either --config or --profiles"),
        (["--config", "a"], "give --out report.html, --markdown or both"),
        (["--config", "a", "--quality", "b", "--markdown"], "--quality goes with --profiles"),
        (["--config", "a", "--markdown", "--slo-ms", "0"], "Invalid value for '--slo-ms'"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], message: str) -> None:
    result = report(*arguments)
    assert result.exit_code == 2 and message in result.output


def test_unusable_folders_are_named(tmp_path: Path, profiles: Path) -> None:
    with pytest.raises(ReportError, match=re.escape(f"{tmp_path / 'none'} has no .json files")):
        config_of(tmp_path / "none", None)
    with pytest.raises(quality_file.QualityError, match="is not a quality table"):
        config_of(profiles, profiles)
    (profiles / "twin.json").write_bytes((profiles / "m-tp1.json").read_bytes())
    with pytest.raises(ReportError, match=r"two profiles in .* are of a backend 'm-tp1'"):
        config_of(profiles, None)


def test_a_page_that_cannot_be_written_is_one_line(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = report("--config", fleet, "--out", tmp_path / "file/r.html")
    assert isinstance(result.exception, ReportError) and "cannot write" in str(result.exception)


def _markup(page: str) -> str:
    """The page without its scripts, which hold the drawing library."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
