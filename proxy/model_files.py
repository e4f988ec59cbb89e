"""The files behind a catalog, each read once: replicas share a profile, and models of one family a vocabulary."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from profiler import profile_file
from proxy.config import BackendConfig, ConfigError
from proxy.engine_flags import flag
from proxy.tokenizer_json import UnsupportedTokenizer
from proxy.tokens import SharedBpes, TokenCounter

log = logging.getLogger("paretoproxy")


class ModelFiles:
    """Keeps what it read for as long as a catalog is built."""

    def __init__(self) -> None:
        self._profiles: dict[Path, profile_file.Profile] = {}
        self._bpes = SharedBpes()

    def profile(self, backend: BackendConfig) -> profile_file.Profile | None:
        """None where there is none yet. Raises ConfigError."""
        path = backend.profile
        if path is None:
            return None
        if not path.exists():
            log.warning("backend %s: %s is not there yet (`paretoproxy profile`); a wide prior", backend.name, path)
            return None
        if path not in self._profiles:
            try:
                self._profiles[path] = profile_file.read(path)
            except profile_file.ProfileError as error:
                raise ConfigError(f"backend {backend.name}: {error}") from error
        return _as_launched(self._profiles[path], backend)

    def counter(self, folder: Path | None) -> TokenCounter | None:
        """None where the backend's own /tokenize has to count."""
        if folder is None:
            return None
        try:
            return TokenCounter.from_folder(folder, self._bpes)
        except UnsupportedTokenizer:
            return None


def _as_launched(profile: profile_file.Profile, backend: BackendConfig) -> profile_file.Profile:
    """An engine that is started with other seats than it was measured with has those."""
    seats = flag(backend, "max-num-seqs")
    if seats is None or int(seats) == profile.max_num_seqs:
        return profile
    return msgspec.structs.replace(profile, max_num_seqs=int(seats))
