"""Nothing of a patient is anywhere outside a site: not in a byte that crossed the wire, not in a file of the centre.

A whole campaign of the real centre over enrolled sites, with what goes wrong in hospitals: a picture that is damaged,
one that is missing, tables that cannot be read, a refusal, an error nobody expected.
"""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from client.app import app as client_app
from client.data.site_store import site_store
from client.ensemble import delivery
from client.rounds import node
from client.site import policy_file
from client.site.site import Site
from common.settings import Settings
from server import deployed
from server.campaign import campaign
from server.campaign.members import Pace
from server.federation.home import Home
from server.runs import runs, submit
from server.service.superlink import HOME_VARIABLE
from tests import enrolling
from tests.federation.fault_processes import NoFault
from tests.federation.faults import FaultyGrid, in_process
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

WARD = "ward-xylophone"
DEVICE = "Zetascope 9000"
READERS = {"r1": "Dr Thistlewood", "r2": "Dr Quillfeather"}
HIDDEN = (WARD, "Zetascope", "Thistlewood", "Quillfeather", "MURGATROYD", "OCALLAGHAN")
"""In every path, device, reader, exam and patient of the sites, and nowhere else."""
NAMES = ("cork", "dublin", "galway", "limerick", "sligo")


PACE = Pace(look=0.01, ask_first=0.02, ask_last=0.1, silence=30.0)
Spoken = tuple["Recording", Home, list[Path]]


@pytest.fixture(scope="module")
def settings() -> Settings:
    text = 'fusion = "joint"\nreplicas = 1\n[training]\nlocal_steps = 1\nbatch_size = 8\n[federation]\nrounds = 2\n'
    made = make_settings(
        measurements=("hypertrophy",),
        grades=3,
        text=f'{text}quorum = 2\napproval_s = 20.0\n[campaign]\npurpose = "test"\nrecipients = ["sites"]\n',
    )
    return made.model_copy(update={"name": "quiet"})


def hospital(folder: Path, *, seed: int) -> Path:
    """A site whose ids, names, devices and readers nothing else is called."""
    made = make_site_folder(
        folder,
        name=folder.name,
        patients=6,
        exams_per_patient=2,
        seed=seed,
        measurements=("hypertrophy",),
        grades=3,
        readers=2,
        devices=(f"{DEVICE} {folder.name}",),
        held_out_patients=2,
    )
    exams = {}
    rows = read_table(made / "manifest.csv")
    for number, row in enumerate(rows):
        exams[row["exam_id"]] = f"EXAM{seed}{number:04d}MURGATROYD"
        row["exam_id"] = exams[row["exam_id"]]
        row["patient_id"] = f"MRN{seed}{number // 2:05d}OCALLAGHAN"
        for image in ("gs", "doppler"):
            name = f"images/{row['patient_id'].lower()}_{number}_{image}_hand.png"
            (made / row[f"{image}_path"]).rename(made / name)
            row[f"{image}_path"] = name
    write_table(made / "manifest.csv", rows)
    grades = read_table(made / "grades.csv")
    for row in grades:
        row["exam_id"], row["reader"] = exams[row["exam_id"]], READERS[row["reader"]]
    write_table(made / "grades.csv", grades)
    return made


def words_of(folder: Path) -> set[str]:
    """What a site knows and nobody else may; the same name stands in each of its words."""
    words = {str(folder), *READERS.values()}
    for row in read_table(folder / "manifest.csv"):
        words |= {row["exam_id"], row["patient_id"], row["device"]}
        words |= {Path(row[f"{image}_path"]).stem for image in ("gs", "doppler")}
    return words


def occurring(content: bytes) -> set[str]:
    """The names that bytes hold in any case, or as UTF-16, hex or base64."""
    text = content.lower()
    plain = {name for name in HIDDEN if name.lower().encode() in text}
    wide = {name for name in HIDDEN if name.encode("utf-16-le") in content}
    return plain | wide | {name for name in HIDDEN if enrolling.holds(content, name.encode())}


class Recording(NoFault):
    """Keeps every byte of every message and reply, as Flower sends them."""

    def __init__(self) -> None:
        self.sent: set[bytes] = set()
        self.came: set[bytes] = set()

    def sending(self, site: str, message: Message, number: int) -> bool:
        self.sent.update(serialised(message))
        return True

    def replying(self, site: str, reply: Message, number: int) -> tuple[float, ...]:
        self.came.update(serialised(reply))
        return (0.0,)


def serialised(message: Message) -> Iterator[bytes]:
    """All objects of a message."""
    return (one.deflate() for one in get_all_nested_objects(message).values())


def unexpected(folder: Path) -> None:
    """The site's own code breaks, and says of whom."""
    patient = read_table(folder / "manifest.csv")[0]["patient_id"]
    raise RuntimeError(f"index 7 is out of bounds for {patient} at {folder}")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Iterator[Spoken]:
    """What was said in a campaign in which much went wrong."""
    base = tmp_path_factory.mktemp("quiet")
    now = datetime.now(UTC)
    home = enrolling.make_home(base / "centre", now=now)
    (base / WARD).mkdir()
    folders = [hospital(base / WARD / name, seed=seed) for seed, name in enumerate(NAMES)]
    cork, dublin, galway, limerick, sligo = folders
    for folder in folders:
        enrolling.join(home, folder, now=now)
    rows = {folder: read_table(folder / "manifest.csv") for folder in folders}
    (cork / rows[cork][0]["gs_path"]).write_bytes(
        b"\x89PNG\r\n damaged: " + rows[cork][0]["patient_id"].encode()
    )
    (dublin / rows[dublin][1]["doppler_path"]).unlink()
    toml = galway / "site.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8").replace('methods = ["*"]', "methods = []"), encoding="utf-8"
    )
    grades = read_table(limerick / "grades.csv")
    write_table(limerick / "grades.csv", ({"exam_id": row["exam_id"], "x": row["reader"]} for row in grades))
    for folder in folders:
        policy_file.sign(Site.open(folder), Ed25519PrivateKey.generate())
    recording = Recording()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(home.path))
        real = node.train
        broke: list[Site] = []

        def train(site: Site, *rest: object, **more: object) -> object:
            if site.name == "sligo" and len(broke) < 2:
                broke.append(site)
                unexpected(sligo)
            return real(site, *rest, **more)  # type: ignore[arg-type]

        patch.setattr(node, "train", train)
        patch.setattr(campaign, "run", partial(campaign.run, pace=PACE))
        submit.submit(home, settings)
        grid = FaultyGrid(folders, in_process(client_app), recording)
        deployed.run(grid, name=settings.name)
    yield recording, home, folders


def test_what_went_wrong_did(spoken: Spoken, settings: Settings) -> None:
    _, home, folders = spoken
    status = runs.find(home, settings.name).status()
    assert status.state == "COMPLETE_SUBSET"
    assert set(status.missing) == {"galway", "limerick"}
    assert status.ensemble == dict.fromkeys(("cork", "dublin", "sligo"), "received")
    assert "policy" in status.sites["galway"].reason
    assert "data" in status.sites["limerick"].reason
    said = (folders[NAMES.index("sligo")] / "log.txt").read_text(encoding="utf-8")
    assert "OCALLAGHAN" in said  # its own people can read it
    for folder in folders[:2]:
        site = Site.open(folder)
        assert len(site_store(site, settings).quarantined) == 1
        assert delivery.opened(site, settings.plan_hash())


def test_nothing_of_a_patient_crossed_the_wire(spoken: Spoken) -> None:
    recording, _, _ = spoken
    for direction in (recording.sent, recording.came):
        assert len(direction) > 20
        assert occurring(b"\0".join(direction)) == set()


def test_no_file_of_the_centre_holds_anything_of_a_patient(spoken: Spoken) -> None:
    _, home, _ = spoken
    files = [path for path in home.path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"log.txt", "status.json", "rounds.jsonl", "cork.jsonl", "registry.json"} <= names
    for path in files:
        assert occurring(path.read_bytes()) == set(), path
    assert occurring("\n".join(str(path.relative_to(home.path)) for path in files).encode()) == set()


def test_the_search_finds_what_is_there(spoken: Spoken) -> None:
    _, _, folders = spoken
    words = set[str]().union(*(words_of(folder) for folder in folders))
    assert all(occurring(word.encode()) for word in words)
    for form in (b"ocallaghan", "OCALLAGHAN".encode("utf-16-le"), b"OCALLAGHAN".hex().encode()):
        assert occurring(b"\x01\xff" + form + b"\x00") == {"OCALLAGHAN"}
    assert occurring(base64.b64encode(b"ab MRN000OCALLAGHAN c")) == {"OCALLAGHAN"}
