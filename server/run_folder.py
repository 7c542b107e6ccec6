"""A run's folder: what it holds, how it is begun, moved aside and taken up again."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import tomli_w

from common import atomic
from common import settings as configuration
from common.errors import CampaignError, ConfigurationError
from common.privacy import notice
from common.settings import Settings
from common.version import VERSION
from server.journal import RoundRecord

PACKAGES = ("torch", "flwr", "numpy", "scikit-learn")

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``config.toml``, ``manifest.json``, ``rounds.jsonl`` and what else a run leaves, in one place."""

    path: Path

    @classmethod
    def begin(cls, path: Path, settings: Settings) -> RunFolder:
        """Start a run; a former run of that name is moved aside to ``<name>.1``, ``<name>.2``, ..."""
        if path.exists():
            aside = next(
                c for i in range(1, 1_000_000) if not (c := path.with_name(f"{path.name}.{i}")).exists()
            )
            path.rename(aside)
        path.mkdir(parents=True)
        folder = cls(path)
        document = settings.model_dump(mode="json", exclude_none=True)
        atomic.write(path / "config.toml", tomli_w.dumps(document).encode())
        folder.write_json("manifest.json", _manifest(settings))
        return folder

    @classmethod
    def resume(cls, path: Path, settings: Settings) -> RunFolder:
        """Take up a run that was interrupted.

        Raises:
            CampaignError: if there is none, or it has ended, or it ran another plan.
        """
        folder = cls(path)
        manifest = folder.manifest()
        if manifest["plan_hash"] != settings.plan_hash():
            raise CampaignError(
                f"The run in {path} is of another plan than the configuration: resume it with its own "
                f"{path / 'config.toml'}, or start a new run without --resume"
            )
        folder.update_manifest(status="RUNNING")
        return folder

    def settings(self) -> Settings:
        """The resolved configuration."""
        return configuration.load(self.path / "config.toml", past=True)

    def manifest(self) -> dict[str, object]:
        """Status, versions, seed, hashes, sites, times.

        Raises:
            ConfigurationError: if this is no run's folder.
        """
        try:
            content = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"Expected a run's folder at {self.path}: {error}") from None
        if not isinstance(content, dict):
            raise ConfigurationError(
                f"Expected a run's manifest in {self.path}, got {type(content).__name__}"
            )
        return content

    def update_manifest(self, **changes: object) -> None:
        """Replace entries of the manifest; the file is whole at every instant."""
        self.write_json("manifest.json", self.manifest() | changes)

    def write_json(self, name: str, content: Json) -> None:
        """Write a JSON file; NaN becomes null."""
        atomic.write(self.path / name, json.dumps(_finite(content), indent=1).encode() + b"\n")

    def append_round(self, system: str, record: RoundRecord) -> None:
        """Add a line to ``rounds.jsonl``."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(system, record))

    def rewrite_rounds(self, records: Iterable[tuple[str, RoundRecord]]) -> None:
        """Make ``rounds.jsonl`` say what the journals say, after an interruption."""
        text = "".join(_line(system, record) for system, record in records)
        atomic.write(self.path / "rounds.jsonl", text.encode())


def _line(system: str, record: RoundRecord) -> str:
    return json.dumps(_finite({"system": system} | asdict(record))) + "\n"


def _manifest(settings: Settings) -> Json:
    return {
        "status": "RUNNING",
        "name": settings.name,
        "synofed": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "seed": settings.seed,
        "plan_hash": settings.plan_hash(),
        "privacy": notice.label(settings),
        "privacy_statement": notice.sentence(settings),
        "engine": settings.compute.engine,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _finite(value: object) -> object:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
