"""What frozen encoders make of a site's pictures: computed once, the same for a patient whoever else is there."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.data.site_store import site_store
from client.rounds import features as module
from client.rounds.features import features
from client.site.site import Site
from client.withdrawal import withdrawal
from common.errors import DataError
from common.imaging.prepare import picture
from common.machine import pretrained
from common.methods.stages import networks
from common.networks import build
from common.networks.probe import ProbeNetwork
from common.settings import Settings
from tests.encoders import probe_settings
from tests.public_encoders import make_encoders
from tests.site_folders import make_site_folder, read_table, write_table

CPU = torch.device("cpu")
GONE = "site-a-p002"
Frozen = Mapping[str, Mapping[str, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and wait for each other on a machine that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six patients with three exams, but for the first, who has one."""
    made = make_site_folder(tmp_path / "site", patients=6, exams_per_patient=3, held_out_patients=1)
    for table in ("manifest.csv", "grades.csv"):
        rows = read_table(made / table)
        write_table(made / table, [row for row in rows if row["exam_id"][-6:] not in ("000-e1", "000-e2")])
    return made


def configured(tmp_path: Path, **probe: object) -> Settings:
    """Two encoders, two sets of pictures, two starts, three views."""
    fields: dict[str, object] = {"augmentations": 2, "initialisations": 2, "views": 3}
    return probe_settings(tmp_path / "encoders", probe=fields | probe)


def encoders(tmp_path: Path, settings: Settings, *, seed: int = 0) -> Frozen:
    shutil.rmtree(tmp_path / "encoders", ignore_errors=True)
    make_encoders(tmp_path / "encoders", settings, seed=seed)
    return {
        name: {piece.part: pretrained.part(spec, settings.network, piece.part) for piece in spec.frozen}
        for name, spec in networks(settings).items()
    }


def computed(folder: Path, settings: Settings, frozen: Frozen) -> dict[str, Tensor]:
    specs = list(networks(settings).values())
    return features(Site.open(folder), specs, settings, frozen, device=CPU)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "store" / module.FOLDER).glob("*"))


def by_exam(folder: Path, settings: Settings, found: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    ids = site_store(Site.open(folder), settings).exams["exam_id"]
    return {
        (name, str(exam)): values
        for name, all_of in found.items()
        for exam, values in zip(ids, all_of, strict=True)
    }


def test_the_first_view_is_what_the_network_makes_of_the_pictures(folder: Path, tmp_path: Path) -> None:
    settings = configured(tmp_path, augmentations=1, views=1)
    frozen = encoders(tmp_path, settings)
    found = computed(folder, settings, frozen)
    data = site_store(Site.open(folder), settings).tensors
    for name, spec in networks(settings).items():
        start = build.initial_weights(spec, settings.network, seed=0)
        network = build.assembled(spec, settings.network, start, frozen[name])
        assert isinstance(network, ProbeNetwork)
        pictures = [
            picture(data.images[image], settings.images[image], image_px=settings.network.image_px)
            for image in spec.images
        ]
        with torch.no_grad():
            torch.testing.assert_close(found[name][:, 0], network.features(pictures), atol=1e-5, rtol=1e-5)
        assert found[name].shape == (16, 1, 3)


def test_heads_of_one_encoder_and_set_of_pictures_share_features(folder: Path, tmp_path: Path) -> None:
    settings = configured(tmp_path)
    found = computed(folder, settings, encoders(tmp_path, settings))
    assert len(found) == 2 * 2 * 2 * 2
    assert len({id(values) for values in found.values()}) == len(files(folder)) == 2 * 2 * 2
    first, other_start, other_set = (found[f"probe/member{m}/hypertrophy"] for m in (0, 1, 2))
    assert first is other_start
    assert first is not other_set


def test_the_first_picture_of_the_first_set_is_plain_and_all_others_differ(
    folder: Path, tmp_path: Path
) -> None:
    settings = configured(tmp_path, encoders=1, initialisations=1)
    frozen = encoders(tmp_path, settings)
    found = computed(folder, settings, frozen)
    both = [found[f"probe/member{m}/hypertrophy"] for m in (0, 1)]
    views = torch.cat(both, dim=1)
    for one in range(6):
        for other in range(one):
            assert not torch.equal(views[:, one], views[:, other]), (one, other)
    without = settings.model_copy(
        update={"training": settings.training.model_copy(update={"augmentation": None})}
    )
    plain = computed(folder, without, frozen)["probe/member1/hypertrophy"]
    torch.testing.assert_close(plain, both[0][:, :1].expand(-1, 3, -1), rtol=0, atol=0)


def test_what_is_kept_is_what_would_be_computed_again(folder: Path, tmp_path: Path) -> None:
    settings = configured(tmp_path)
    frozen = encoders(tmp_path, settings)
    now = computed(folder, settings, frozen)
    stamps = [path.stat().st_mtime_ns for path in files(folder)]
    kept = computed(folder, settings, frozen)
    assert [path.stat().st_mtime_ns for path in files(folder)] == stamps
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(folder))
    shutil.rmtree(folder / "store" / module.FOLDER)
    again = computed(folder, settings, frozen)
    assert all(torch.equal(now[name], kept[name]) and torch.equal(now[name], again[name]) for name in now)
    assert "features of 16 exams under 3 views" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "gone", ["site-a-p003", *(pytest.param(f"site-a-p00{n}", marks=pytest.mark.soak) for n in (0, 5))]
)
def test_nobodys_features_change_by_a_bit_when_a_patient_leaves(
    folder: Path, tmp_path: Path, gone: str
) -> None:
    settings = configured(tmp_path, encoders=1, initialisations=1)
    frozen = encoders(tmp_path, settings)
    before = by_exam(folder, settings, computed(folder, settings, frozen))
    for table in ("grades.csv", "manifest.csv"):
        rows = read_table(folder / table)
        write_table(folder / table, [row for row in rows if not row["exam_id"].startswith(gone)])
    after = by_exam(folder, settings, computed(folder, settings, frozen))
    assert {exam for _, exam in before} - {exam for _, exam in after} >= {f"{gone}-e0"}
    assert after and all(torch.equal(values, before[key]) for key, values in after.items())


def test_other_encoders_data_or_settings_are_never_answered_from_what_is_kept(
    folder: Path, tmp_path: Path
) -> None:
    settings = configured(tmp_path, encoders=1, augmentations=1, initialisations=1)
    frozen = encoders(tmp_path, settings)
    name = "probe/member0/vascularity"
    first = computed(folder, settings, frozen)[name]
    other = computed(folder, settings, encoders(tmp_path, settings, seed=1))[name]
    assert not torch.equal(first, other)
    reseeded = computed(folder, settings.model_copy(update={"seed": 9}), frozen)[name]
    assert torch.equal(first[:, 0], reseeded[:, 0]) and not torch.equal(first[:, 1], reseeded[:, 1])
    assert len(files(folder)) == 3 * 2
    path, replacement = (folder / read_table(folder / "manifest.csv")[row]["gs_path"] for row in (3, 7))
    path.write_bytes(replacement.read_bytes())
    (folder / "manifest.csv").write_text((folder / "manifest.csv").read_text() + "\n")
    changed = computed(folder, settings, frozen)[name]
    assert not torch.equal(first[3], changed[3])
    assert torch.equal(first[4:], changed[4:])
    assert len(files(folder)) == 2, "what was made of the data before is gone"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_a_damaged_file_is_made_again(folder: Path, tmp_path: Path, content: bytes | None) -> None:
    settings = configured(tmp_path, encoders=1, augmentations=1, initialisations=1)
    frozen = encoders(tmp_path, settings)
    first = {name: values.clone() for name, values in computed(folder, settings, frozen).items()}
    for path in files(folder):
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes(whole[:-4] if content is None else content)
    again = computed(folder, settings, frozen)
    assert all(torch.equal(values, again[name]) for name, values in first.items())


def test_features_that_are_not_finite_stay_so(folder: Path, tmp_path: Path) -> None:
    settings = configured(tmp_path, encoders=1, augmentations=1, initialisations=1)
    frozen = {
        name: {
            part: torch.full_like(flat, torch.nan) if part == "neck" else flat for part, flat in parts.items()
        }
        for name, parts in encoders(tmp_path, settings).items()
    }
    assert all(values.isnan().all() for values in computed(folder, settings, frozen).values())
    assert all(values.isnan().all() for values in computed(folder, settings, frozen).values())


def test_a_withdrawal_removes_them_and_nothing_is_kept_for_a_store_from_before(
    folder: Path, tmp_path: Path
) -> None:
    settings = configured(tmp_path, encoders=1, augmentations=1, initialisations=1)
    frozen = encoders(tmp_path, settings)
    site, specs = Site.open(folder), list(networks(settings).values())
    before = site_store(site, settings)
    first = by_exam(folder, settings, features(site, specs, settings, frozen, device=CPU, store=before))
    assert len(files(folder)) == 2
    withdrawal.withdraw(site, GONE)
    assert files(folder) == []
    with pytest.raises(DataError, match=r"withdrawn while the exams were read"):
        features(site, specs, settings, frozen, device=CPU, store=before)
    assert files(folder) == []
    after = by_exam(folder, settings, computed(folder, settings, frozen))
    assert after.keys() == {key for key in first if not key[1].startswith(GONE)}
    assert all(torch.equal(values, first[key]) for key, values in after.items())
