"""What a reader can ask the ensemble: its answer, where its networks looked, whether it knows the machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from client.data.tables.rows import read_rows
from client.ensemble import delivery
from client.site import training_device
from client.site.site import Site
from client.state import decisions
from common.errors import DataError, SynofedError
from common.exam import ImageRef

if TYPE_CHECKING:
    from common.ensemble.committee import Committee
    from common.ensemble.heatmaps import HeatmapSettings

Answer = Mapping[str, object]
KEPT = 200
"""Answers that stay in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An exam's answer.

    Attributes:
        answer: as :func:`client.ensemble.scoring.answer` has it.
        heatmaps: image -> PNG of its region under its heatmap; empty where the method has none.
        explained: what heatmaps are about; why there are none.
    """

    answer: Answer
    heatmaps: Mapping[str, bytes]
    explained: str


@dataclass(slots=True, kw_only=True)
class Assistant:
    """An ensemble, ready to be asked.

    Attributes:
        name: whose it is.
        committee: the networks.
        thresholds: measurement -> threshold of its sets of grades; empty: there are none.
        machines: on which it was trained, as far as that is known.
        others_known: whether it was trained on no others.
        heatmap: how heatmaps are made; ``None``: as RATING's are.
    """

    name: str
    committee: Committee
    thresholds: Mapping[str, float]
    machines: frozenset[str]
    others_known: bool
    heatmap: HeatmapSettings | None = None
    _known: dict[tuple[object, ...], Answered] = field(default_factory=dict)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def images(self) -> tuple[str, ...]:
        """That it reads."""
        return tuple(self.committee.settings.images)

    def knows(self, machine: str) -> bool | None:
        """Whether an exam's machine was among those that it was trained on; ``None``: not known."""
        if machine and machine in self.machines:
            return True
        return False if machine and self.others_known else None

    def ask(self, pictures: Mapping[str, ImageRef]) -> Answered:
        """What it says of an exam; one at a time, each once.

        Args:
            pictures: image -> its file, and the region as it is now.

        Raises:
            ConfigurationError: if an image that it reads is missing.
            DataError: if a picture cannot be used.
        """
        wanted = {name: pictures[name] for name in self.images if name in pictures}
        key = tuple((name, ref.path, ref.roi) for name, ref in wanted.items())
        with self._asking:
            if key not in self._known:
                if len(self._known) >= KEPT:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = self._ask(wanted)
            return self._known[key]

    def _ask(self, pictures: Mapping[str, ImageRef]) -> Answered:
        from client.ensemble import scoring  # noqa: PLC0415  torch

        scores = scoring.score_exam(self.committee, pictures)
        heatmaps, explained = self._heatmaps(pictures)
        return Answered(
            answer=scoring.answer(scores, self.committee.settings, self.thresholds),
            heatmaps=heatmaps,
            explained=explained,
        )

    def _heatmaps(self, pictures: Mapping[str, ImageRef]) -> tuple[dict[str, bytes], str]:
        import numpy as np  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415

        from client.data.pictures import clips  # noqa: PLC0415
        from client.ensemble import scoring  # noqa: PLC0415
        from common.ensemble.explained import explained, under  # noqa: PLC0415
        from common.ensemble.heatmaps import HeatmapSettings, heatmaps  # noqa: PLC0415

        try:
            networks = explained(self.committee)
        except SynofedError as error:
            return {}, str(error)
        read = scoring.as_read(self.committee, pictures, networks.images)
        found = heatmaps(
            networks.modules,
            read,
            settings=self.heatmap or HeatmapSettings(),
            generator=networks.generator(),
        )
        layered = {}
        for name, heatmap in zip(networks.images, found, strict=True):
            ref = pictures[name]
            picture, _ = clips.frame(Path(ref.path), 1)
            if ref.roi is not None:
                box = ref.roi
                picture = picture.crop((box.x, box.y, box.x + box.width, box.y + box.height))
            output = io.BytesIO()
            Image.fromarray(under(np.asarray(picture), heatmap[0])).save(
                output, format="PNG", compress_level=1
            )
            layered[name] = output.getvalue()
        return layered, networks.question


class Assistance:
    """The assistant of a site, opened when it is first asked for: networks take seconds to load."""

    def __init__(self, site: Site, opened: Assistant | None = None) -> None:
        self._site = site
        self._given = opened

    @property
    def there(self) -> bool:
        """Whether there is one to ask."""
        return self._given is not None or _newest(self._site) is not None

    @cached_property
    def assistant(self) -> Assistant:
        """The given one, or what the site received last.

        Raises:
            DataError: if there is none.
            VerificationError: if it was changed since it came.
        """
        if self._given is not None:
            return self._given
        plan_hash = _newest(self._site)
        if plan_hash is None:
            raise DataError(
                "Expected an ensemble to ask, the site has received none yet: name a run's with --ensemble RUN"
            )
        return received(self._site, plan_hash)


def received(site: Site, plan_hash: str) -> Assistant:
    """The ensemble that a site received, since it took part: its own machines are known, the others' are not.

    Raises:
        DataError: if there is none.
        VerificationError: if it was changed since it came.
    """
    statement, committee = delivery.opened(site, plan_hash)
    compute = site.file.compute
    device = training_device.prepared(site, device=compute.device, threads=compute.threads)
    table = read_rows(site.data_folder / site.file.data.manifest, ["exam_id"])
    return Assistant(
        name=statement.campaign,
        committee=committee.on(device),
        thresholds={},
        machines=frozenset(row.get("device", "") for _, row in table.rows),
        others_known=False,
    )


def _newest(site: Site) -> str | None:
    """Plan hash of the ensemble that a site received last."""
    for plan_hash in decisions.listed(site):
        if (delivery.folder(site.folder, plan_hash) / "statement.json").exists():
            return plan_hash
    return None
