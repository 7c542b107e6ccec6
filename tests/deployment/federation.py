"""A real federation on this machine: a centre and sites as processes, TLS, enrolled keys, signed policies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.connection import enrolment as site_enrolment
from client.site import policy_file
from client.site.site import Site
from common.enrolment import Invitation
from server.federation import enrolment, provision
from server.federation.home import Home
from server.runs.runs import ENDED, Run
from server.service import superlink
from server.service.control import Control, connect
from simulation.cohorts import peers
from tests.patience import PATIENCE_S, wait_for
from tests.site_folders import make_site_folder


def simulated_sites(federation: Federation, names: Sequence[str], out: Path) -> list[Path]:
    """Copies of sites' folders without keys and policies' signatures: a simulation's sites."""
    ignored = shutil.ignore_patterns(
        "federation*", "policy.sig", "audit*", "ledger*", "flower", "campaigns", "outbox", "keys", "log.txt"
    )
    return [Path(shutil.copytree(federation.site(name), out / name, ignore=ignored)) for name in names]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _folds(patients: int, held_out: int) -> list[str]:
    """Of every exam: patients in turn into two folds, the last ones into none."""
    of_patients = [str(patient % 2) if patient < patients - held_out else "" for patient in range(patients)]
    return [fold for fold in of_patients for _ in range(2)]


@dataclass(slots=True)
class Federation:
    """A centre and its sites; ``up`` and ``join`` start their processes, ``close`` ends all of them."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    officer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @classmethod
    def make(
        cls,
        folder: Path,
        names: Sequence[str],
        *,
        patients: int = 6,
        held_out_patients: int = 2,
        policies: Mapping[str, str] | None = None,
    ) -> Federation:
        """Provision a centre and enrol sites with tiny random cohorts, some with further lines in their policies."""
        made = cls(folder)
        now = datetime.now(UTC)
        address = f"127.0.0.1:{free_port()}"
        provision.provision(
            made.home.path,
            name="Test",
            address=address,
            listen=address,
            superlink_port=free_port(),
            now=now,
        )
        for index, name in enumerate(names):
            site = make_site_folder(
                made.site(name),
                name=name,
                patients=patients,
                exams_per_patient=2,
                seed=index,
                held_out_patients=held_out_patients,
                extra={"fold": _folds(patients, held_out_patients)},  # else the site's key draws them
            )
            toml = (site / "site.toml").read_text(encoding="utf-8")
            (site / "site.toml").write_text(toml + (policies or {}).get(name, ""), encoding="utf-8")
            made.enrol(site)
        return made

    @property
    def home(self) -> Home:
        return Home(self.folder / "federation")

    def site(self, name: str) -> Path:
        return self.folder / name

    def enrol(self, site: Path) -> None:
        """Invite, register and accept a site whose folder is there, and sign its policy."""
        now = datetime.now(UTC)
        with (site / "site.toml").open("a", encoding="utf-8") as file:
            file.write('maximum_epsilon = 50.0\n\n[compute]\ndevice = "cpu"\nthreads = 1\n')
        name = Site.open(site).name
        invitation = enrolment.invite(self.home.path, name, now=now)
        enrolled = site_enrolment.enrol(site, Invitation.parse(invitation.dump()), now=now)
        enrolment.accept(self.home.path, enrolled.request.dump(), now=now)
        policy_file.sign(Site.open(site), self.officer)

    def acquaint(self, names: Sequence[str]) -> None:
        """Let sites know each other's keys, as their people exchange them, and sign their policies anew."""
        peers.pin([self.site(name) for name in names])
        for name in names:
            policy_file.sign(Site.open(self.site(name)), self.officer)

    def up(self, *wrapper: str) -> None:
        """Start the centre, by a command that ends in executing another where one is given."""
        self._start("up", "federation", "up", "--home", str(self.home.path), wrapper=wrapper)

    def join(self, name: str, *options: str) -> None:
        self._start(name, "site", "join", str(self.site(name)), *options)

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        """End one process; returns its exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=PATIENCE_S)

    def said(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.out").read_text(encoding="utf-8")

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    @contextmanager
    def control(self) -> Iterator[Control]:
        port = self.home.federation().superlink.port
        with connect(port, superlink.files(self.home).authority) as link:
            yield link

    def connected(self, names: Sequence[str]) -> None:
        """Bring the centre up and sites in; returns when all are connected."""
        self.up()
        for name in names:
            self.join(name)
        self.wait(superlink.files(self.home).authority.exists, what="a SuperLink that starts")
        self.wait(lambda: "the SuperLink answers" in self.said("up"), what="a SuperLink that answers")
        self.wait(lambda: self.online() == set(names), what=f"{len(names)} connected sites")

    def online(self) -> set[str]:
        with self.control() as link:
            return {node.name for node in link.nodes() if node.online}

    def ended(self, run: Run) -> Run:
        """Wait for a campaign's end."""
        self.wait(lambda: run.status().state in ENDED, what=f"the end of {run.name}")
        return run

    def wait(self, holds: Callable[[], bool], *, what: str) -> None:
        """Wait until something holds; what everybody printed is shown if it never does."""

        def told() -> str:
            logs = "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in self._logs())
            return f"Expected {what} within {PATIENCE_S:g} s\n{logs}"

        wait_for(holds, every_s=0.2, told=told)

    def _logs(self) -> list[Path]:
        return sorted(
            [*self.folder.glob("*.out"), *self.folder.glob("*/log.txt"), *self.home.runs.glob("*/log.txt")]
        )

    def _start(self, name: str, *arguments: str, wrapper: Sequence[str] = ()) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [*wrapper, sys.executable, str(Path(sys.executable).parent / "synofed"), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,
            )
