"""Starting with the machine, and what other accounts of it can reach."""

import getpass
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli.site_cli import site as site_commands
from client.connection import service
from client.connection.service import cron_lines, unit
from client.data.site_store import site_store
from client.site import file_permissions
from client.site.site import Site
from common.errors import ConfigurationError
from server.federation.enrolment import invite
from tests.enrolling import make_home
from tests.site_folders import make_settings, make_site_folder

AWKWARD = "Ward 3 100% \"north\" $HOME 'x' #1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / AWKWARD
    made.mkdir()
    (made / "site.toml").write_text('name = "north"\n')
    return made


class Machine:
    """Stand-ins for the commands of a machine, which note what they were asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        self.table = folder / "table"
        patch.setenv("PATH", str(folder))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))

    def has(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nPATH=/bin:/usr/bin\necho "{name} $*" >>{self.asked}\n{script}\n')
        path.chmod(0o755)

    def has_crontab(self, *lines: str) -> None:
        self.table.write_text("".join(f"{line}\n" for line in lines))
        self.has("crontab", f'if [ "$1" = -l ]; then cat {self.table}; else cat >{self.table}; fi')

    @property
    def said(self) -> list[str]:
        return self.asked.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path / "bin", monkeypatch)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "a venv" / "synofed"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "synofed-site-north.service"
    path.write_text(unit(Path("/data") / AWKWARD, "north", program))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", path],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0 and "Unknown" not in done.stderr, done.stderr


def test_a_unit_starts_again_for_ever_and_holds_no_secret() -> None:
    text = unit(Path("/data/north"), "north", Path("/opt/venv/bin/synofed"))
    assert 'ExecStart="/opt/venv/bin/synofed" site join "/data/north"\n' in text
    for line in ("Restart=always", "StartLimitIntervalSec=0", "UMask=0077", "WantedBy=default.target"):
        assert line in text.splitlines()
    assert 'Environment="PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"' in text.splitlines()
    quoted = unit(Path("/data") / AWKWARD, "north", Path("/opt/synofed"))
    assert '"/data/Ward 3 100%% \\"north\\" $$HOME \'x\' #1"' in quoted
    with pytest.raises(ConfigurationError, match="without control characters"):
        unit(Path("/data/a\nExecStartPre=evil"), "north", Path("/opt/synofed"))


def test_cron_runs_what_it_should(tmp_path: Path) -> None:
    program, said = tmp_path / "a b" / "synofed", tmp_path / "said"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{shlex.quote(str(said))}; umask >>{shlex.quote(str(said))}\n'
    )
    program.chmod(0o755)
    lines = cron_lines(Path("/data") / AWKWARD, program)
    assert [line.split()[0] for line in lines] == ["@reboot", "*/5"]
    for line in lines:
        command = line.removeprefix("@reboot ").removeprefix("*/5 * * * * ")
        assert "%" not in command.replace(r"\%", "")
        subprocess.run(["sh", "-c", command.replace(r"\%", "%")], check=True)
        assert said.read_text().splitlines() == ["site", "join", f"/data/{AWKWARD}", "0077"]


def test_systemd_is_set_up_and_removed(folder: Path, machine: Machine) -> None:
    machine.has("systemctl", "")
    machine.has("loginctl", "echo Linger=no")
    done = service.install(folder, "systemd")
    path = machine.folder / "config" / "systemd" / "user" / "synofed-site-north.service"
    assert done.place == str(path) and done.running
    assert f'"{service._program()}" site join' in path.read_text()
    assert len(done.todo) == 1 and done.todo[0].startswith(f"loginctl enable-linger {getpass.getuser()}")
    assert machine.said == [
        "systemctl --user daemon-reload",
        "systemctl --user enable synofed-site-north.service",
        "systemctl --user restart synofed-site-north.service",
        f"loginctl show-user {getpass.getuser()} --property=Linger",
    ]
    machine.has("loginctl", "echo Linger=yes")
    assert service.install(folder, "systemd").todo == ()
    assert service.remove(folder) == (str(path),)
    assert not path.exists() and "systemctl --user disable --now synofed-site-north.service" in machine.said
    assert service.remove(folder) == ()


def test_says_what_is_left_where_systemd_does_not_answer(folder: Path, machine: Machine) -> None:
    machine.has("systemctl", "exit 1")
    done = service.install(folder, "systemd")
    assert not done.running and Path(done.place).exists()
    assert [one.split()[0] for one in done.todo] == ["systemctl", "loginctl"]


def test_another_folders_site_of_the_same_name_is_left_alone(
    folder: Path, machine: Machine, tmp_path: Path
) -> None:
    machine.has("systemctl", "")
    service.install(folder, "systemd")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    with pytest.raises(ConfigurationError, match="another folder"):
        service.install(other, "systemd")
    assert service.remove(other) == ()


def test_cron_keeps_what_is_there(folder: Path, machine: Machine) -> None:
    theirs = "0 3 * * * backup # synofed /elsewhere"
    machine.has_crontab(theirs)
    for _ in range(2):
        done = service.install(folder, "cron")
        table = machine.table.read_text().splitlines()
        assert table == [theirs, *cron_lines(folder, service._program())]
    assert done.kind == "cron" and not done.running and done.todo
    assert service.remove(folder) == ("crontab",)
    assert machine.table.read_text().splitlines() == [theirs]


def test_a_table_that_cannot_be_read_is_not_overwritten(folder: Path, machine: Machine) -> None:
    machine.has("crontab", 'if [ "$1" = -l ]; then echo broken >&2; exit 1; fi; echo written')
    with pytest.raises(ConfigurationError, match="broken"):
        service.install(folder, "cron")
    assert machine.said == ["crontab -l"]
    machine.has(
        "crontab", f'[ "$1" != -l ] || {{ echo no crontab for me >&2; exit 1; }}; cat >{machine.table}'
    )
    assert service.install(folder, "cron").place == "crontab"
    (machine.folder / "crontab").unlink()
    with pytest.raises(ConfigurationError, match="--systemd"):
        service.install(folder, "cron")


def test_the_command_takes_one_wish_and_prints_json(folder: Path, machine: Machine) -> None:
    machine.has("systemctl", "")
    run = CliRunner().invoke
    before = os.umask(0o022)
    try:
        assert run(site_commands, ["service", str(folder)]).exit_code == 2
        assert run(site_commands, ["service", str(folder), "--cron", "--systemd"]).exit_code == 2
        done = run(site_commands, ["service", str(folder), "--systemd", "--json"])
        assert done.exit_code == 0 and '"site": "north"' in done.output
        assert "Removed from" in run(site_commands, ["service", str(folder), "--remove"]).output
        assert os.umask(0o022) == 0o077  # what a site's commands write is for nobody else
    finally:
        os.umask(before)


def test_init_sets_it_up_in_one_go(machine: Machine, tmp_path: Path) -> None:
    machine.has("systemctl", "")
    now = datetime.now(UTC)
    invitation = tmp_path / "north.invitation"
    invitation.write_text(invite(make_home(tmp_path / "home", now=now).path, "north", now=now).dump())
    arguments = ["init", str(invitation), "--folder", str(tmp_path / "north")]
    before = os.umask(0o022)
    try:
        done = CliRunner().invoke(site_commands, [*arguments, "--systemd"])
    finally:
        os.umask(before)
    assert done.exit_code == 0 and "north runs now and starts with this machine" in done.output
    assert service.unit_path("north").exists()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other accounts can enter: pytest's own is closed."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        place.chmod(0o755)
        if not all(one.stat().st_mode & 0o011 for one in place.resolve().parents):
            pytest.skip("no folder for temporary files that other accounts can enter")
        yield place


def test_others_reach_neither_store_nor_keys(shared: Path) -> None:
    before = os.umask(0o022)
    try:
        site = make_site_folder(shared / "north", name="north", patients=4, held_out_patients=1)
        site_store(Site.open(site), make_settings())
    finally:
        os.umask(before)
    site.chmod(0o755)
    assert (site / "store").stat().st_mode & 0o777 == 0o700
    found = file_permissions.check(site)
    assert len(found) == 1 and "manifest.csv" in found[0] and "store" not in found[0]
    assert f"chmod -R go-rwx {site}" in found[0]
    site.chmod(0o700)
    assert file_permissions.check(site) == ()
    (site / "keys").mkdir(mode=0o700, exist_ok=True)
    for name in ("node", "node.pub"):
        (site / "keys" / name).write_text("k")
        (site / "keys" / name).chmod(0o644)
    assert [line.split(":")[0].rpartition("/")[2] for line in file_permissions.check(site)] == ["node"]


def test_scans_elsewhere_are_looked_at_too(shared: Path) -> None:
    scans, site = shared / "scans", shared / "site"
    scans.mkdir()
    scans.chmod(0o755)
    site.mkdir(mode=0o700)
    (site / "site.toml").write_text('name = "north"\n[data]\nfolder = "../scans"\n')
    assert [str(scans.resolve()) in one for one in file_permissions.check(site)] == [True]
    scans.chmod(0o700)
    assert file_permissions.check(site) == ()
