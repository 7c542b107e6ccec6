"""A whole federation on this machine: ``make federation-demo``.

A centre and three hospitals with certificates and keys of their own, as processes that only talk over TLS; phantoms
as scans. A campaign is submitted, approved at each site, one site is killed on the way and comes back, and the
outcome is shown. What is done here by functions is said as the commands that people would type.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.connection import enrolment as joining
from client.consent import campaigns
from client.site import policy_file
from client.site.site import Site
from client.state import decisions
from common import settings as configuration
from common.errors import ConnectionLostError, SynofedError
from common.sections.cohort import PhantomSettings
from common.text.terminal import Console
from server.cli import run_view
from server.federation import enrolment, provision
from server.federation.home import Home
from server.runs import submit
from server.runs.round_lines import RoundLines
from server.runs.runs import ENDED, EXIT_CODES, Run
from simulation.cohorts import cohort

CONFIG = Path(__file__).parent.parent / "configs" / "federation.toml"
PATIENCE_S = 900.0
KILLED_AFTER = 2
"""Aggregated rounds after which a site is killed."""


@dataclass(slots=True)
class Demo:
    """The demonstration, step by step."""

    folder: Path
    console: Console
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        """The centre's."""
        return Home(self.folder / "centre")

    def run(self) -> int:
        """All of it; returns the campaign's exit code."""
        sites = self._hospitals()
        self._enrol(sites)
        self._start(sites)
        run = self._submit()
        self._approve(run, sites)
        self._kill(run, sites[1])
        self._wait(lambda: run.status().state in ENDED, "the campaign's end")
        self.console.print(run_view.page(run, RoundLines(run.path)))
        self._say(f"All of it lies in {self.folder}")
        return EXIT_CODES[run.status().state]

    def end(self) -> None:
        """End every process."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait()

    def _hospitals(self) -> list[Path]:
        self._say("Three hospitals with phantoms as scans")
        made = cohort.make(
            PhantomSettings(sites=3, patients=20, exams_per_patient=4), seed=1, out=self.folder / "phantoms"
        )
        sites = []
        for site in made.sites[:3]:
            place = self.folder / site.name
            shutil.copytree(site.folder, place)
            file = place / "site.toml"
            text = file.read_text(encoding="utf-8").replace('approval = "automatic"', 'approval = "each"')
            file.write_text(f'{text}\n[compute]\ndevice = "cpu"\nthreads = 1\n', encoding="utf-8")
            sites.append(place)
        return sites

    def _enrol(self, sites: list[Path]) -> None:
        now = datetime.now(UTC)
        address = f"127.0.0.1:{_free_port()}"
        self._typed(f"federation provision --name Demo --address {address} --home {self.home.path}")
        provision.provision(
            self.home.path,
            name="Demo",
            address=address,
            listen=address,
            superlink_port=_free_port(),
            now=now,
        )
        for site in sites:
            self._typed(f"federation invite {site.name}; site init; federation accept; site policy sign")
            invitation = enrolment.invite(self.home.path, site.name, now=now)
            request = joining.enrol(site, invitation, now=now).request
            enrolment.accept(self.home.path, request.dump(), fingerprint=request.fingerprint, now=now)
            policy_file.sign(Site.open(site), Ed25519PrivateKey.generate())

    def _start(self, sites: list[Path]) -> None:
        self._process("centre", "federation", "up", "--home", str(self.home.path))
        for site in sites:
            self._process(site.name, "site", "join", str(site))
        for site in sites:
            self._wait(partial(self._has_said, site.name, "connected to"), f"{site.name}, connected")
        self._say("The centre is up and all hospitals are connected: TLS, one key per site, one open port")

    def _submit(self) -> Run:
        self._typed(f"run submit {CONFIG.name} --home {self.home.path}")
        return submit.submit(self.home, configuration.load(CONFIG))

    def _approve(self, run: Run, sites: list[Path]) -> None:
        plan_hash = run.settings().plan_hash()
        for site in sites:
            opened = Site.open(site)
            self._wait(partial(_knows, opened, plan_hash), f"the plan at {site.name}")
            self._typed(f"site campaigns approve {plan_hash[:12]}   (at {site.name})")
            campaigns.decide(opened, plan_hash, decisions.Status.APPROVED, by="demo")

    def _kill(self, run: Run, site: Path) -> None:
        self._wait(
            lambda: len(run.rounds()) >= KILLED_AFTER or run.status().state in ENDED, f"{KILLED_AFTER} rounds"
        )
        if run.status().state in ENDED:
            return
        process = self.processes.pop(site.name)
        process.kill()
        process.wait()
        self._say(
            f"{site.name} was killed (SIGKILL) after round {len(run.rounds())}; the campaign waits for it"
        )
        time.sleep(5)
        self.console.print(run_view.page(run, RoundLines(run.path)))
        self._process(site.name, "site", "join", str(site))

    def _process(self, name: str, *arguments: str) -> None:
        self._typed(" ".join(arguments))
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-c", "import synofed; synofed.main()", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )

    def _has_said(self, name: str, text: str) -> bool:
        return text in (self.folder / f"{name}.out").read_text(encoding="utf-8")

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds.

        Raises:
            ConnectionLostError: if it never does.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise ConnectionLostError(
                    f"Expected {what} within {PATIENCE_S:g} s: see the logs in {self.folder}"
                )
            time.sleep(0.5)

    def _say(self, text: str) -> None:
        self.console.print(text, style="bold", soft_wrap=True)

    def _typed(self, command: str) -> None:
        self.console.print(f"$ synofed {command}", style="cyan", soft_wrap=True)


def _knows(site: Site, plan_hash: str) -> bool:
    return plan_hash in decisions.listed(site)


def main() -> int:
    """Run the demonstration; returns its exit code."""
    console = Console()
    with _ended_by_sigterm():
        demo = Demo(Path(tempfile.mkdtemp(prefix="synofed-federation-")), console)
        try:
            return demo.run()
        except SynofedError as error:
            console.print(f"Error: {error}", style="red", soft_wrap=True)
            return error.exit_code
        finally:
            demo.end()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
