"""How far an attempt at a secure sum has come: ``sums/<group>.json`` in the run's folder.

It names the attempt and who answered which phase, so that a centre that was killed asks the same again: sites answer
with the bytes that they kept, and nothing is drawn or charged a second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.errors import CampaignError
from common.machine import atomic
from common.secure_aggregation.messages import Phase
from common.text.file_names import file_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """An attempt.

    Attributes:
        server_round: at which round.
        attempt: its number.
        answered: phase that is over -> who answered it.
        failed: whether it can never be finished.
    """

    server_round: int
    attempt: str
    answered: Mapping[Phase, tuple[str, ...]] = field(default_factory=dict)
    failed: bool = False

    @property
    def opened(self) -> bool:
        """Whether sites may have helped to open the sum, and so refuse other attempts at this round."""
        return "survivors" in self.answered


class ProgressFile:
    """The latest attempt of a group."""

    def __init__(self, folder: Path, group: str) -> None:
        self._path = folder / f"{file_name(group)}.json"

    def read(self) -> Progress | None:
        """What was written last.

        Raises:
            CampaignError: if it cannot be read.
        """
        try:
            content = json.loads(self._path.read_bytes())
            answered = {phase: tuple(map(str, names)) for phase, names in content["answered"].items()}
            return Progress(
                server_round=int(content["server_round"]),
                attempt=str(content["attempt"]),
                answered=answered,
                failed=bool(content["failed"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CampaignError(
                f"Expected an attempt in {self._path}, it cannot be read ({error}): remove it, then resume"
            ) from None

    def write(self, progress: Progress) -> None:
        """Write before anything of it is asked for.

        Raises:
            OSError: if it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(self._path, json.dumps(asdict(progress)).encode())
