"""Factories of sites that took part in a private campaign, with everything that a site writes in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from client.consent import campaigns
from client.ledger import issued_receipts, ledger
from client.log import outbox
from client.log.audit import Asked
from client.site import policy_file
from client.site.site import Site
from client.state import decisions
from client.state.decisions import Status
from common import wire
from common.messages import NetworkReply, PlanRequest, TrainReply, TrainRequest
from common.privacy.accounting import of_plan
from common.privacy.accounting.spending import PrivateRelease
from common.receipts import Contents, Kept
from common.sections.privacy import PrivacySettings
from common.settings import Settings, parse
from common.version import VERSION

ROUNDS, PATIENTS, SIGMA = 4, 12, 10.8
SIZES = {"probe/member0/hypertrophy": 36, "probe/member0/vascularity": 36}
"""Four grades, eight features and one."""
IDS = tuple(f"north-p{number:03d}" for number in range(PATIENTS))


def make_plan(**changes: object) -> Settings:
    """A private campaign of one member; ``changes`` are of its privacy."""
    privacy = {"noise_multiplier": SIGMA, "patients": PATIENTS, "images": 4} | changes
    lines = [
        'name = "heads"',
        'method = "probe"',
        "[images.gs]",
        'kind = "grey"',
        "[measurements.hypertrophy]",
        'images = ["gs"]',
        "[measurements.vascularity]",
        'images = ["gs"]',
        "[network]",
        "image_px = 16",
        "width = 4",
        'weights = "encoders/phantom"',
        "[probe]",
        "initialisations = 1",
        "neck = 8",
        "[federation]",
        f"rounds = {ROUNDS}",
        "[privacy]",
        *(f"{name} = {value}" for name, value in privacy.items()),
    ]
    return parse("\n".join(lines))


@dataclass(slots=True)
class Campaign:
    """A site that answers a private campaign round by round."""

    site: Site
    settings: Settings
    kept: list[Kept]

    @classmethod
    def begin(
        cls,
        folder: Path,
        *,
        name: str = "north",
        maximum_epsilon: float = 8.0,
        settings: Settings | None = None,
    ) -> Campaign:
        """A site that approved the plan."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "site.toml").write_text(
            f'name = "{name}"\n[policy]\napproval = "automatic"\nmethods = ["*"]\nallow_unprotected = true\n'
            f'metrics = ["counts"]\nmaximum_epsilon = {maximum_epsilon}\nkeep_outbox_days = 90\n',
            encoding="utf-8",
        )
        site, settings = Site.open(folder), settings or make_plan()
        policy_file.admit(site)
        request = PlanRequest(
            campaign="heads",
            request_id="plan1",
            version=VERSION,
            plan=settings.plan_json(),
            plan_hash=settings.plan_hash(),
        )
        place = decisions.folder(folder, settings.plan_hash())
        campaigns._keep(site, request, settings.plan_json().encode())
        assert decisions.read(place) is not None
        assert decisions.listed(site)[settings.plan_hash()].status is Status.APPROVED
        return cls(site, settings, [])

    @property
    def privacy(self) -> PrivacySettings:
        """Of the plan."""
        assert self.settings.privacy is not None
        return self.settings.privacy

    def debit(self, server_round: int, *, sigma: float | None = None, patients: Sequence[str] = IDS) -> None:
        """Enter a round in the ledger."""
        steps = of_plan.steps(self.privacy, 1)
        ledger.reserve(
            self.site,
            PrivateRelease(
                kind="private-sum",
                campaign="heads",
                plan_hash=self.settings.plan_hash(),
                request_id=f"r{server_round}",
                server_round=server_round,
                group="heads",
                version=VERSION,
                steps=steps if sigma is None else replace(steps, noise_multiplier=sigma),
                max_grad_norm=self.privacy.max_grad_norm,
                patients=self.privacy.patients,
                images=self.privacy.images,
            ),
            patients,
        )

    def send(
        self,
        server_round: int,
        record: RecordDict | None = None,
        *,
        seed: int | None = None,
        keep: bool = True,
    ) -> None:
        """Enter a reply in the log, sign its receipt, and keep it."""
        record = record or self.reply(server_round, seed=seed)
        request = TrainRequest(
            campaign="heads",
            plan_hash=self.settings.plan_hash(),
            request_id=f"r{server_round}",
            group="heads",
            server_round=server_round,
            encoding="float32",
            weights={},
            layouts={},
        )
        asked = Asked.of(request, Contents(hash="b" * 64, size_bytes=12))
        draft = outbox.Draft(self.site.folder, asked, record) if keep else None
        receipt = issued_receipts.of_reply(self.site, request, wire.contents(record), asked)
        if draft is not None:
            draft.complete(receipt)
        self.kept.append(
            Kept(received=f"2026-01-0{server_round}T00:00:00+00:00", public_key="", receipt=receipt)
        )

    def reply(self, server_round: int, *, scale: float = 1.0, seed: int | None = None) -> RecordDict:
        """What a round sends: noise, as if no patient had a gradient; nothing after the last round."""
        generator = np.random.default_rng(server_round if seed is None else seed)
        deviation = scale * self.settings.probe.learning_rate * SIGMA / PATIENTS
        closing = server_round > self.settings.federation.rounds
        networks = {
            name: NetworkReply(
                update=None if closing else generator.normal(0, deviation, size).astype(np.float32),
                num_examples=1,
                loss=float("nan"),
                histograms=None,
            )
            for name, size in SIZES.items()
        }
        reply = TrainReply(site=self.site.name, request_id=f"r{server_round}", networks=networks)
        return wire.encode(reply, encoding="float32")

    def run(self, rounds: int = ROUNDS) -> Campaign:
        """All rounds, and the closing one if they are all of the plan's."""
        for server_round in range(1, rounds + 1):
            self.debit(server_round)
            self.send(server_round)
        if rounds == ROUNDS:
            self.send(ROUNDS + 1)
        return self

    def receipts(self, path: Path) -> Path:
        """The receipts, as the centre keeps them."""
        from client.site import keys
        from common.receipts import dump

        key = keys.public_key(self.site.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(dump(replace(one, public_key=key)) + "\n" for one in self.kept), encoding="utf-8"
        )
        return path


def with_stray(record: RecordDict, name: str = "buffers") -> RecordDict:
    """The reply with one tensor more."""
    arrays = record.array_records["updates"]
    values = np.zeros(5, dtype="<f4")
    more = {**arrays, name: Array("float32", (5,), "raw", values.tobytes())}
    return RecordDict({**record, "updates": ArrayRecord(more)})
