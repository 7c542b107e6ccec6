"""Privacy from its plan to its audit on this machine: ``make privacy-demo``.

Encoders are pretrained on phantoms, five simulated sites train heads on them at epsilon 3, a second campaign is
refused by the hospitals' caps, an audit recomputes every claim, one edited line of a ledger is found, and a round
that was opened under secure aggregation is not opened again. All but the last are the commands that people would
type, and each has to end as it should.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from common.errors import BudgetError, PolicyError, VerificationError
from common.text.terminal import Console
from demos import second_opening

CONFIGS = Path(__file__).parent.parent / "configs"
FOLDER = Path("runs") / "privacy-demo"
LESS_NOISE = "privacy.noise_multiplier=5.0"
"""Epsilon 7 instead of 3."""
SECURE = tuple(
    word
    for setting in (
        "federation.rounds=3",
        "federation.secure.sites=5",
        "federation.secure.survivors=4",
        "federation.secure.colluders=1",
    )
    for word in ("--set", setting)
)
"""Three rounds more at the same noise: 63 cost epsilon 3.1, the cap is 4."""
BUDGET, VERIFICATION = BudgetError.exit_code, VerificationError.exit_code


class UnexpectedEndError(Exception):
    """A command did not end as it should."""


class Demo:
    """The demonstration, in a folder of its own."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console

    def run(self) -> None:
        """All of it.

        Raises:
            UnexpectedEndError: if a command ended otherwise than it should.
        """
        private, run = str(CONFIGS / "rating_private.toml"), "runs/rating_private"
        self._say("1. Public encoders from phantoms of other machines: no patient's budget is spent")
        self._typed("pretrain", str(CONFIGS / "pretrain.toml"))
        self._say("2. What the campaign will cost, and the annex that is signed before it")
        size = ("--total-patients", "450", "--sites", "5")
        self._typed("privacy", "plan", private, *size, "--dpia", "dpia.html")
        self._say("3. The campaign: 60 rounds at five sites, epsilon 3 for each patient")
        self._typed("simulate", private)
        site = min(self._folder.glob("cohorts/phantom-*/site-*"))
        name = str(site.relative_to(self._folder))
        self._typed("site", "ledger", "show", name)
        self._say("4. A second campaign costs more than the cap: the sites refuse it before it begins")
        self._typed("simulate", private, "--set", LESS_NOISE, "--out", "runs/second", ends=BUDGET)
        self._say("5. The audit recomputes every claim, and rehearses the private step with canaries")
        self._typed("privacy", "audit", run, "--site", name, "--promise", "dpia.json", "--empirical")
        self._say("6. Somebody edits a line of a ledger, to have spent less")
        ledger = site / "ledger.jsonl"
        text = ledger.read_text(encoding="utf-8")
        edited = text.replace('"noise_multiplier":10.78', '"noise_multiplier":99.9', 1)
        ledger.write_text(edited, encoding="utf-8")
        self._typed("privacy", "verify", name, ends=VERIFICATION)
        ledger.write_text(text, encoding="utf-8")
        self._typed("privacy", "verify", name)
        self._say(
            "7. Three rounds under secure aggregation; then the centre tries to open the first of them a second time"
        )
        self._typed("simulate", private, *SECURE, "--out", "runs/secure")
        self._asks_again(self._folder / "runs" / "secure", site.parent)
        self._say(f"All of it lies in {self._folder}: look at {run}/privacy_report.html and dpia.html")

    def _asks_again(self, run: Path, cohort: Path) -> None:
        try:
            for line in second_opening.refusals(run, sorted(cohort.glob("site-*"))):
                self._console.print(line, soft_wrap=True)
        except PolicyError as error:
            raise UnexpectedEndError(str(error)) from None
        self._console.print("(refused by all, as it should be)", style="green")

    def _typed(self, *arguments: str, ends: int = 0) -> None:
        self._console.print(f"$ synofed {' '.join(arguments)}", style="cyan", soft_wrap=True)
        command = [sys.executable, "-P", "-c", "import synofed; synofed.main()", *arguments]
        code = subprocess.run(command, cwd=self._folder, env=os.environ, check=False).returncode
        if code != ends:
            raise UnexpectedEndError(
                f"Expected synofed {arguments[0]} to end with {ends}, it ended with {code}"
            )
        if ends:
            self._console.print(f"(exit code {ends}, as it should be)", style="green")

    def _say(self, text: str) -> None:
        self._console.print(f"\n{text}", style="bold", soft_wrap=True)


def main() -> int:
    """Run the demonstration; returns 0 if every step ended as it should."""
    console = Console()
    if FOLDER.exists():
        former = FOLDER.with_name(f"{FOLDER.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        FOLDER.rename(former)
        if (former / "encoders").exists():  # the same configuration gives the same encoders
            FOLDER.mkdir()
            shutil.move(former / "encoders", FOLDER / "encoders")
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        Demo(FOLDER.resolve(), console).run()
    except UnexpectedEndError as error:
        console.print(f"Error: {error}", style="red", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
