"""What a site was asked and what it sent, by its log, which is read as it grows and checked on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.log import audit, chain
from common.errors import VerificationError
from common.hash_chain import START, Entry, Head
from common.machine.following import Following

LAST_SENT = 50
LAST_LINES = 200
"""The newest answers and lines, which are kept."""
SENT = frozenset(audit.ANSWERS) - {audit.MISSING}
"""Events of replies that left with a receipt."""


@dataclass(slots=True, kw_only=True)
class Counted:
    """What passed between the centre and the site.

    Attributes:
        requests: that came.
        request_bytes: of their arrays.
        replies: that left.
        reply_bytes: of these, those that left again included.
        repeated: replies that left once more.
        refused: requests that were refused.
        refusal: the last one's code.
        asked: when the last request came, ISO 8601; empty if never.
        sent: when the last reply left.
    """

    requests: int = 0
    request_bytes: int = 0
    replies: int = 0
    reply_bytes: int = 0
    repeated: int = 0
    refused: int = 0
    refusal: str = ""
    asked: str = ""
    sent: str = ""

    def add(self, content: Mapping[str, Any]) -> None:
        """Count an entry of the log."""
        event, time = content.get("event"), str(content.get("time", ""))
        if event == audit.REQUEST:
            self.requests += 1
            self.request_bytes += int(content.get("request_bytes", 0))
            self.asked = time
        elif event in SENT or event == audit.REPEATED:
            self.replies += event in SENT
            self.repeated += event == audit.REPEATED
            self.reply_bytes += int(content.get("reply_bytes", 0))
            self.sent = time
        elif event == audit.REFUSAL:
            self.refused += 1
            self.refusal = str(content.get("code", ""))


@dataclass(slots=True)
class Traffic:
    """A site's log, as far as it was read.

    Attributes:
        folder: the site's.
        campaigns: plan hash -> what passed for it.
        total: of all, with requests that could not be read.
        sent: the newest replies that left, the oldest of them first.
        lines: the newest entries, number and text, as ``site log show`` prints them.
        open: the last request, while it has no answer.
        problem: where the log is damaged; nothing after it is counted.
        begun: how often the log was read from its beginning.
    """

    folder: Path
    campaigns: dict[str, Counted] = field(default_factory=dict)
    total: Counted = field(default_factory=Counted)
    sent: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LAST_SENT))
    lines: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    open: Mapping[str, Any] | None = None
    problem: str = ""
    begun: int = 1
    _head: Head = START
    _file: Following = field(init=False)

    def __post_init__(self) -> None:
        self._file = Following(self.folder / chain.NAME)

    def look(self) -> None:
        """Read what was added.

        Raises:
            OSError: if the log cannot be read.
        """
        added = self._file.look()
        if added.afresh:
            self._forget()
        if self.problem:
            return
        try:
            for entry in chain.continued(added.lines, self.folder / chain.NAME, after=self._head):
                self._add(entry)
        except VerificationError as error:
            self.problem = str(error)

    def _forget(self) -> None:
        for known in (self.campaigns, self.sent, self.lines):
            known.clear()
        self.total, self.open, self.problem, self._head = Counted(), None, "", START
        self.begun += 1

    def _add(self, entry: Entry) -> None:
        content = entry.content
        self._head = Head(sequence=entry.sequence, hash=entry.hash)
        self.lines.append((entry.sequence, audit.line(entry)))
        self.total.add(content)
        if "plan_hash" in content:
            self.campaigns.setdefault(str(content["plan_hash"]), Counted()).add(content)
        event = content.get("event")
        if event in SENT:
            self.sent.append(content)
        if event == audit.REQUEST:
            self.open = content
        elif self.open is not None and content.get("request_id") == self.open.get("request_id"):
            self.open = None
