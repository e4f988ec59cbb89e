"""The files behind a catalog are read once, whoever shares them."""

from pathlib import Path

import pytest
from simulation_rig import make_profile

from profiler import profile_file
from proxy.config import BackendConfig, ConfigError, LaunchConfig
from proxy.model_files import ModelFiles


def backend(name: str, profile: Path | None) -> BackendConfig:
    return BackendConfig(name=name, url="http://b", profile=profile)


def test_replicas_share_the_profile_of_one_file(tmp_path: Path) -> None:
    path, files = tmp_path / "a.json", ModelFiles()
    profile_file.write(make_profile("a"), path)
    first = files.profile(backend("one", path))
    assert first is not None and first.backend == "a"
    assert files.profile(backend("two", path)) is first
    assert ModelFiles().profile(backend("three", path)) is not first


def test_a_profile_that_is_not_there_or_none_is_told_per_backend(tmp_path: Path) -> None:
    files, broken = ModelFiles(), tmp_path / "broken.json"
    assert files.profile(backend("one", None)) is None
    assert files.profile(backend("one", tmp_path / "later.json")) is None
    broken.write_text("{")
    for name in ("one", "two"):
        with pytest.raises(ConfigError, match=f"backend {name}: .*broken.json is not a profile"):
            files.profile(backend(name, broken))


def test_an_engine_started_with_other_seats_than_measured_has_those(tmp_path: Path) -> None:
    path, files = tmp_path / "a.json", ModelFiles()
    profile_file.write(make_profile("a"), path)
    measured = files.profile(backend("one", path))
    launch = LaunchConfig(model="m", args={"max-num-seqs": 3})
    launched = files.profile(backend("two", path).model_copy(update={"launch": launch}))
    assert measured is not None and launched is not None
    assert launched.max_num_seqs == 3 != measured.max_num_seqs
    assert launched.step_time is measured.step_time
