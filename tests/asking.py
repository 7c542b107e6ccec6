"""A centre of its own for one site: it asks through the real ClientApp, whatever the test wants asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import app
from client.log import audit, chain
from common import wire
from common.messages import MissingWeights, PlanReply, PlanRequest, Refusal, Signed, TrainReply, TrainRequest
from common.methods.stages import networks
from common.networks import build
from common.settings import Settings
from common.version import VERSION
from tests.site_folders import make_settings, make_site_folder

CAUTIOUS = """\
[policy]
allow_unprotected = true
methods = ["rating"]
metrics = ["counts", "losses", "score_histograms", "timings"]
minimum_cohort = 2
maximum_rounds = 20
"""
"""A policy as a hospital might have it."""


def settings(text: str = "") -> Settings:
    """A small plan of one stage."""
    return make_settings(
        measurements=("hypertrophy",),
        grades=3,
        text=f'fusion = "joint"\nreplicas = 1\n[training]\nlocal_steps = 1\nbatch_size = 8\n'
        f"[federation]\nrounds = 3\n{text}",
    )


def site(folder: Path, *, policy: str = CAUTIOUS, name: str = "north") -> Path:
    """A site with pictures and a policy."""
    made = make_site_folder(
        folder, name=name, patients=8, measurements=("hypertrophy",), grades=3, held_out_patients=2
    )
    toml = made / "site.toml"
    head = toml.read_text(encoding="utf-8").partition("[policy]")[0]
    toml.write_text(head + policy, encoding="utf-8")
    return made


def change_policy(folder: Path, old: str, new: str) -> None:
    """Edit a site's policy."""
    toml = folder / "site.toml"
    text = toml.read_text(encoding="utf-8")
    assert old in text
    toml.write_text(text.replace(old, new), encoding="utf-8")


@dataclass(slots=True)
class Centre:
    """Asks one site.

    Attributes:
        folder: the site's.
        settings: of the campaign.
    """

    folder: Path
    settings: Settings = field(default_factory=settings)
    asked: int = 0

    def plan_request(self, settings: Settings | None = None) -> PlanRequest:
        """A plan as an honest centre sends it."""
        self.asked += 1
        plan = settings or self.settings
        return PlanRequest(
            campaign=plan.name,
            request_id=f"{self.asked:032x}",
            version=VERSION,
            plan=plan.plan_json(),
            plan_hash=plan.plan_hash(),
        )

    def train_request(self, server_round: int = 1) -> TrainRequest:
        """A round of the first network as an honest centre sends it."""
        spec = next(iter(networks(self.settings).values()))
        layout = build.layout(spec, self.settings.network)
        generator = np.random.default_rng(server_round)
        return TrainRequest(
            campaign=self.settings.name,
            plan_hash=self.settings.plan_hash(),
            request_id=f"{0xABC000 + server_round:032x}",
            group="g",
            server_round=server_round,
            encoding="float32",
            weights={spec.name: (generator.normal(size=layout.size) * 0.05).astype("<f4")},
            layouts={spec.name: layout.hash},
        )

    def plan(self, request: PlanRequest | RecordDict) -> Signed[PlanReply] | Refusal:
        """What the site answers to a plan."""
        record = wire.encode(request) if isinstance(request, PlanRequest) else request
        return wire.decode_reply(PlanReply, self.send(record, wire.PLAN))

    def train(self, request: TrainRequest | RecordDict) -> Signed[TrainReply] | MissingWeights | Refusal:
        """What the site answers to a request to train."""
        record = wire.encode(request) if isinstance(request, TrainRequest) else request
        return wire.decode_round_reply(TrainReply, self.send(record, wire.TRAIN))

    def send(self, record: RecordDict, kind: str) -> RecordDict:
        """What the site answers to anything."""
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        message = Message(record, 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        config: dict[str, bool | float | int | str] = {
            "site-folder": str(self.folder),
            "device": "cpu",
            "threads": 1,
        }
        context = Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})
        return app(message, context).content

    def log(self) -> list[dict[str, object]]:
        """The site's log, which has to be whole."""
        return [dict(entry.content) for entry in chain.entries(self.folder / chain.NAME)]

    def events(self) -> list[str]:
        """What the site's log tells of, but for requests."""
        return [str(entry["event"]) for entry in self.log() if entry["event"] != audit.REQUEST]

    def text_log(self) -> str:
        """What only the site's people read."""
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    def refused(self, answer: object, code: str, *, says: str) -> None:
        """Check that an answer is a refusal with a code alone, and that the site's people can read why."""
        assert isinstance(answer, Refusal), answer
        assert answer.code == code
        assert says in self.text_log()
        last = self.log()[-1]
        assert (last["event"], last["code"]) == (audit.REFUSAL, code)


def relabelled(plan: PlanRequest, **changes: object) -> PlanRequest:
    """A plan request whose plan says something else under the hash that it had."""
    document = json.loads(plan.plan)
    document.update(changes)
    return replace(plan, plan=json.dumps(document, sort_keys=True, separators=(",", ":")))
