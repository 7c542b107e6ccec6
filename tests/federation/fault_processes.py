"""What the processes of the fault tests do: a site that dies at a given instant, a centre that does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from flwr.app import Message

from client.app import app
from common import wire
from common.aggregation import federated
from common.settings import Settings
from common.training.local import train_network
from server.campaign import campaign
from server.campaign.events import Event
from server.campaign.members import Pace
from server.campaign.roster import Roster
from server.rounds.rounds import GroupRounds
from tests.federation.faults import Fault, FaultyGrid, die, in_process

ROUND = 2
"""The round in which processes die."""


class NoFault(Fault):
    """Everything arrives."""


def serve(folder: Path, link: Connection, death: str | None) -> None:
    """Answer messages; die ``training``, ``answered`` (before the reply leaves) or ``replied`` (after) in a round."""
    torch.set_num_threads(1)
    answer = in_process(app)
    doomed = False
    if death == "training":

        def train_or_die(*args: Any, **kwargs: Any) -> Any:
            trained = train_network(*args, **kwargs)
            if doomed:
                die()
            return trained

        patch.object(federated, "train_network", train_or_die).start()
    while True:
        try:
            message: Message = pickle.loads(link.recv_bytes())
        except EOFError:
            return
        doomed = message.metadata.group_id.endswith(f"/{ROUND}")
        reply = answer(folder, message)
        if death == "answered" and doomed:
            die()
        link.send_bytes(pickle.dumps(reply))
        if death == "replied" and doomed:
            die()


def never_answers(folder: Path, link: Connection, death: str | None) -> None:
    """Say that a message has come, in the site's folder, and nothing else."""
    del death
    link.recv_bytes()
    (folder / "asked").touch()
    link.recv_bytes()


def centre(settings: Settings, folders: list[Path], folder: Path, keys: dict[str, str], death: str) -> None:
    """Run a campaign; die in ``broadcast``, ``aggregation``, ``writing`` the journal or when it is ``written``."""
    torch.set_num_threads(1)
    grid = FaultyGrid(folders, in_process(app), NoFault())
    _doom(grid, death)
    campaign.run(
        grid,
        settings,
        roster=Roster.of(keys),
        folder=folder,
        campaign="test",
        observer=_deaf,
        pace=Pace(look=0.01),
    )


def _deaf(event: Event) -> None:
    del event


def _doom(grid: FaultyGrid, death: str) -> None:
    if death == "broadcast":
        push = grid.push_messages

        def push_one(messages: Any) -> list[str]:
            first, *others = list(messages)
            ids = push([first])
            if first.metadata.message_type == wire.TRAIN and first.metadata.group_id.endswith(f"/{ROUND}"):
                die()
            return ids + push(others)

        grid.push_messages = push_one  # type: ignore[method-assign]
    elif death == "aggregation":
        aggregate = GroupRounds._aggregate

        def aggregate_or_die(self: GroupRounds, name: str, current: Any) -> Any:
            state = aggregate(self, name, current)
            if current.server_round == ROUND:
                die()
            return state

        GroupRounds._aggregate = aggregate_or_die  # type: ignore[method-assign]
    else:
        patch.object(Path, "replace", _dying(Path.replace, before=death == "writing")).start()


def _dying(replace: Callable[[Path, Any], Path], *, before: bool) -> Callable[[Path, Any], Path]:
    """A rename that dies around the one that commits the round."""

    def renamed(self: Path, target: Any) -> Path:
        commits = Path(target).name == f"round_{ROUND:06d}.safetensors"
        if commits and before:
            die()
        new = replace(self, target)
        if commits:
            die()
        return new

    return renamed
