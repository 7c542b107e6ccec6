"""What the centre's pages ask for: a list of campaigns, one of them as it goes, its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from common.errors import ConfigurationError, DataError
from common.machine import desk, desk_live
from common.machine.desk_live import Seen
from server.desk import campaign_view, results
from server.desk.campaign_view import RunView
from server.federation.home import Home
from server.runs.runs import Run, all_of, find
from server.service import campaign_facts, presence


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a desk shows.

    Attributes:
        title: of its pages.
        only: the one run that there is; ``None``: a list.
        listed: the list, and whether the centre is up.
        folder: a run's folder, by its name.
        view: how a page looks at a run, by its name.
    """

    title: str
    only: str | None
    listed: Callable[[], Mapping[str, object]]
    folder: Callable[[str], Path]
    view: Callable[[str], RunView]


def of_home(home: Home) -> Shown:
    """All campaigns of a centre.

    Raises:
        ConfigurationError: if it is none.
    """

    def listed() -> Mapping[str, object]:
        runs = [campaign_facts.summary(run) for run in all_of(home)]
        return {"campaigns": runs, "up": presence.up_by(home) is not None}

    return Shown(
        title=home.federation().name,
        only=None,
        listed=listed,
        folder=lambda name: find(home, name).path,
        view=lambda name: campaign_view.of_campaign(find(home, name)),
    )


def of_run(path: Path) -> Shown:
    """One campaign of a centre, or one simulated run."""
    place = path.resolve()  # a name, whatever it was called by
    deployed = (place / "run.json").is_file()

    def folder(name: str) -> Path:
        if name != place.name:
            raise ConfigurationError(f"Expected the run {place.name}, got {name!r:.100}")
        return place

    def view(name: str) -> RunView:
        return (
            campaign_view.of_campaign(Run(folder(name))) if deployed else campaign_view.of_study(folder(name))
        )

    return Shown(title=place.name, only=place.name, listed=dict, folder=folder, view=view)


def router(shown: Shown) -> APIRouter:
    """Below ``/api``."""
    routes = APIRouter()

    @routes.get("/desk")
    def about() -> dict[str, object]:
        return {"title": shown.title, "pages": [{"href": "/", "title": "Campaigns"}], "only": shown.only}

    @routes.get("/campaigns")
    async def all_campaigns(request: Request) -> StreamingResponse:
        return desk_live.stream(request, lambda: Seen(now=shown.listed()))

    @routes.get("/campaigns/{name}")
    def one(request: Request, name: str) -> StreamingResponse:
        return desk_live.stream(request, shown.view(name).look)

    @routes.get("/campaigns/{name}/report")
    def report(name: str) -> Response:
        place = shown.folder(name) / results.REPORT
        try:
            return desk.document(place.read_bytes())
        except OSError:
            raise DataError(f"Expected the report of {name}, there is none yet") from None

    return routes
