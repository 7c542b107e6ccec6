"""A run's folder: what it holds, how it is begun, moved aside and taken up again."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import tomli_w

from common import settings as configuration
from common.errors import BusyError, CampaignError, ConfigurationError, refusal
from common.machine import atomic, file_lock
from common.machine.file_lock import LockedError
from common.privacy.planning import notice
from common.settings import Settings
from common.text.json_values import finite
from common.version import VERSION
from server.rounds.journal import RoundRecord

PACKAGES = ("torch", "flwr", "numpy", "scikit-learn")

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``config.toml``, ``manifest.json``, ``rounds.jsonl`` and what else a run leaves, in one place."""

    path: Path

    @staticmethod
    @contextmanager
    def alone(path: Path) -> Iterator[None]:
        """Keep other processes from a run's folder, from before it is begun until the run has ended.

        Raises:
            BusyError: if one writes there; it is named.
        """
        try:
            with file_lock.alone_beside(path):
                yield
        except LockedError as error:
            raise BusyError(
                f"{path} is being written by process {error}: wait for its end, or give this run a place of its own "
                f"(--set name=..., or --out)"
            ) from None

    @property
    def is_written(self) -> bool:
        """Whether a process holds it by :meth:`alone`; it counts as held where that cannot be told."""
        place = self.path.resolve()
        try:
            return file_lock.is_held(place.with_name(f".{place.name}{file_lock.NAME}"))
        except OSError:
            return True

    @classmethod
    def begin(cls, path: Path, settings: Settings, *, files: Mapping[str, bytes] | None = None) -> RunFolder:
        """Start a run; a former run of that name is moved aside to ``<name>.1``, ``<name>.2``, ...

        Args:
            path: the folder; :meth:`alone` is held where others might begin the same.
            settings: the configuration.
            files: what else is there from the beginning on, by name.
        """
        if path.exists():
            aside = next(
                c for i in range(1, 1_000_000) if not (c := path.with_name(f"{path.name}.{i}")).exists()
            )
            path.rename(aside)
        path.mkdir(parents=True)
        folder = cls(path)
        folder._write_settings(settings)
        for name, content in (files or {}).items():
            atomic.write(path / name, content)
        folder.write_json("manifest.json", _manifest(settings))
        return folder

    @classmethod
    def resume(cls, path: Path, settings: Settings) -> RunFolder:
        """Take up a run: one that was interrupted, or one that is to be evaluated anew.

        What is not in the plan (``evaluate``, ``compute``, ``cohort``, ``name``) holds as it is given now, and is
        written down.

        Raises:
            ConfigurationError: if there is none.
            CampaignError: if it ran another plan.
        """
        folder = cls(path)
        folder.check_plan(settings)
        folder._write_settings(settings)
        manifest = {key: value for key, value in folder.manifest().items() if key not in ("error", "ended")}
        folder.write_json("manifest.json", manifest | _follows(settings) | {"status": "RUNNING"})
        return folder

    def check_plan(self, settings: Settings) -> None:
        """Whether a configuration is of the plan that this run trains.

        Raises:
            ConfigurationError: if there is no run.
            CampaignError: if not; it says what differs.
        """
        if self.manifest()["plan_hash"] != settings.plan_hash():
            differ = ", ".join(_differences(self.settings().plan(), settings.plan())) or "no setting"
            raise CampaignError(
                f"The run in {self.path} is of another plan than the configuration, which differs in {differ}: "
                f"resume it with its own {self.path / 'config.toml'}, or start a new run without --resume"
            )

    def _write_settings(self, settings: Settings) -> None:
        document = settings.model_dump(mode="json", exclude_none=True)
        atomic.write(self.path / "config.toml", tomli_w.dumps(document).encode())

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
        except OSError as error:
            raise ConfigurationError(
                f"Expected a run's folder with manifest.json at {self.path}: {refusal(error)}"
            ) from None
        except ValueError as error:
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
        atomic.write(self.path / name, json.dumps(finite(content), indent=1).encode() + b"\n")

    def append_round(self, system: str, record: RoundRecord) -> None:
        """Add a line to ``rounds.jsonl``."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(system, record))

    def rewrite_rounds(self, records: Iterable[tuple[str, RoundRecord]]) -> None:
        """Make ``rounds.jsonl`` say what the journals say, after an interruption."""
        text = "".join(_line(system, record) for system, record in records)
        atomic.write(self.path / "rounds.jsonl", text.encode())


def _line(system: str, record: RoundRecord) -> str:
    return json.dumps(finite({"system": system} | asdict(record))) + "\n"


def _manifest(settings: Settings) -> Json:
    return {
        "status": "RUNNING",
        "synofed": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "seed": settings.seed,
        "plan_hash": settings.plan_hash(),
        "privacy": notice.label(settings),
        "privacy_statement": notice.sentence(settings),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **_follows(settings),
    }


def _follows(settings: Settings) -> dict[str, object]:
    """What the manifest says of settings that another configuration of the same plan may change."""
    return {"name": settings.name, "engine": settings.compute.engine}


def _differences(one: Json, other: Json, prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two plans differ."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        first, second = one.get(key), other.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found += _differences(first, second, f"{prefix}{key}.")
        elif first != second:
            found.append(f"{prefix}{key}")
    return found
