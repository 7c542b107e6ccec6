"""A centre's campaign that is told to do things, as its process would tell them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.settings import Settings
from server import deployed
from server.campaign.events import SiteNews, StageStarted
from server.deployed import Reporter
from server.federation import provision
from server.federation.home import Home
from server.federation.registry import RegisteredSite, Registry
from server.rounds.journal import RoundRecord
from server.runs import submit
from server.runs.runs import Run
from tests.site_folders import make_settings

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def make_home(folder: Path, sites: Sequence[str] = ("north", "south")) -> Home:
    """A centre with registered sites."""
    provision.provision(folder, name="Synovitis study", address="localhost:8443", now=NOW)
    registry = Registry.open(folder)
    for name in sites:
        registry = registry.with_site(
            RegisteredSite(name=name, status="registered", node_key=name, receipt_key=name.encode().hex())
        )
    registry.write(folder)
    return Home(folder)


def settings(name: str = "demo") -> Settings:
    text = 'fusion = "joint"\nreplicas = 1\n[training]\nlocal_steps = 2\nbatch_size = 8\n[federation]\nrounds = 3'
    return make_settings(text=text).model_copy(update={"name": name})


def record(
    group: str,
    number: int,
    *,
    participants: Sequence[str] = ("north", "south"),
    dropped: Mapping[str, str] | None = None,
    loss: float = 0.5,
    auc: float = 0.8,
    stage: str = "scoring",
) -> RoundRecord:
    return RoundRecord(
        stage=stage, group=group, round=number, loss=loss, auc=auc, participants=tuple(participants),
        dropped=dropped or {}, seconds=1.0, time=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A campaign, and what stands for its process."""

    run: Run
    reporter: Reporter

    def stage(self, *, total: int = 40, networks: int = 24) -> None:
        self.reporter(
            StageStarted(stage="scoring", networks=networks, reused=0, groups=2, total=total, done=0)
        )

    def site(self, name: str, state: str, reason: str = "") -> None:
        self.reporter(SiteNews(site=name, state=state, reason=reason))  # type: ignore[arg-type]

    def round(self, group: str, number: int, **changes: object) -> None:
        self.reporter(record(group, number, **changes))  # type: ignore[arg-type]


@contextmanager
def told(home: Home, name: str = "demo") -> Iterator[Told]:
    """A campaign that was submitted, and whose process begins."""
    run = submit.submit(home, settings(name))
    handler = deployed._log_to(run.log)
    try:
        yield Told(run, Reporter(run))
    finally:
        logging.getLogger("synofed.campaign").removeHandler(handler)
        handler.close()
