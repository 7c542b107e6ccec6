"""What a run began with: every change of a site's data is noticed, a withdrawal is none."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from client.data import store
from client.ledger import ledger_file
from client.rounds import run_data
from client.site.site import Site
from client.withdrawal import withdrawal
from common.errors import ChangedDataError, SiteStateError, UpdateError
from tests.site_folders import make_settings, make_site_folder, read_table, write_table

SETTINGS = make_settings()
RUN, PLAN = "0" * 32, SETTINGS.plan_hash()
Change = Callable[[Path], None]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    ledger_file._known.clear()
    folder = make_site_folder(
        tmp_path / "site", patients=8, exams_per_patient=2, held_out_patients=2, readers=3
    )
    yield Site.open(folder)
    ledger_file._known.clear()


def check(site: Site, run: str = RUN) -> None:
    """As a process that was started since the data changed."""
    store.close_all()
    run_data.check(Site.open(site.folder), SETTINGS, plan_hash=PLAN, run=run)


def edited(table: str, *, where: str = "exam_id", is_: str, to: dict[str, str] | None) -> Change:
    def change(folder: Path) -> None:
        rows = read_table(folder / table)
        hit = [row[where] == is_ for row in rows]
        assert any(hit)
        write_table(
            folder / table,
            [row | (to or {}) if of else row for row, of in zip(rows, hit, strict=True) if to or not of],
        )

    return change


def redrawn(folder: Path) -> None:
    path = folder / "images" / "site-a-p000-e0_gs.png"
    ImageOps.invert(Image.open(path).convert("L")).convert("RGB").save(path)


def added(folder: Path) -> None:
    for table in ("manifest.csv", "grades.csv"):
        rows = read_table(folder / table)
        new = [r | {"exam_id": "new", "patient_id": "new"} for r in rows if r["exam_id"] == "site-a-p000-e0"]
        write_table(folder / table, [*rows, *({k: r[k] for k in rows[0]} for r in new)])


def by_one_reader(folder: Path) -> None:
    toml = folder / "site.toml"
    toml.write_text(toml.read_text().replace('consensus = "median"', 'consensus = "reader:r3"'))


def regraded(folder: Path) -> None:
    rows = read_table(folder / "grades.csv")
    write_table(
        folder / "grades.csv",
        [
            row | ({"hypertrophy": "1", "vascularity": "0"} if row["exam_id"] == "site-a-p000-e0" else {})
            for row in rows
        ],
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (regraded, r"1 exam with other grades \(site-a-p000-e0\)"),
        (
            edited("manifest.csv", is_="site-a-p000-e0", to={"gs_roi": "0 0 20 20"}),
            r"1 exam with other pictures or regions \(site-a-p000-e0\)",
        ),
        (redrawn, r"1 exam with other pictures or regions \(site-a-p000-e0\)"),
        (added, r"1 patient added; 1 exam added \(new\)"),
        (
            edited("manifest.csv", where="patient_id", is_="site-a-p001", to=None),
            "1 patient removed; 2 exams removed",
        ),
        (edited("manifest.csv", is_="site-a-p001-e1", to=None), "1 exam removed"),
        (
            edited("manifest.csv", where="patient_id", is_="site-a-p007", to={"split": "train"}),
            r"2 exams held out then or now, not both",
        ),
        (
            edited("manifest.csv", is_="site-a-p001-e1", to={"patient_id": "site-a-p002"}),
            r"1 exam of another patient \(site-a-p001-e1\)",
        ),
        (by_one_reader, r"exams with other grades"),
    ],
)
def test_what_changed_is_said_and_data_that_are_put_back_go_on(site: Site, change: Change, said: str) -> None:
    check(site)
    check(site)
    before = site.folder.with_name("before")
    shutil.copytree(site.folder, before)
    change(site.folder)
    with pytest.raises(ChangedDataError, match=said) as raised:
        check(site)
    assert raised.value.code == "changed"
    for name in ("manifest.csv", "grades.csv", "site.toml"):
        shutil.copy(before / name, site.folder / name)
    shutil.copytree(before / "images", site.folder / "images", dirs_exist_ok=True)
    check(site)


def test_rows_in_another_order_and_columns_that_nobody_reads_are_no_change(site: Site) -> None:
    check(site)
    rows = read_table(site.folder / "manifest.csv")
    write_table(site.folder / "manifest.csv", [row | {"remark": "seen"} for row in reversed(rows)])
    check(site)
    check(site)


@pytest.mark.parametrize("also_removed", [False, True])
def test_a_withdrawal_is_no_change_but_does_not_cover_one(site: Site, also_removed: bool) -> None:
    check(site)
    withdrawal.withdraw(site, "site-a-p001")
    check(site)
    check(site)
    if also_removed:
        edited("manifest.csv", where="patient_id", is_="site-a-p002", to=None)(site.folder)
        with pytest.raises(ChangedDataError, match="1 patient removed; 2 exams removed"):
            check(site)


def test_another_run_of_the_plan_begins_with_what_is_there_then(site: Site) -> None:
    check(site)
    added(site.folder)
    check(site, "1" * 32)
    with pytest.raises(ChangedDataError):
        check(site)


def test_what_is_kept_names_nobody(site: Site) -> None:
    check(site)
    (kept,) = (site.folder / "state").rglob("data.json")
    assert "site-a" not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_damage_and_hostile_names_are_refused(site: Site) -> None:
    check(site)
    (kept,) = (site.folder / "state").rglob("data.json")
    kept.write_text(kept.read_text()[:100])
    with pytest.raises(SiteStateError, match="Expected what a run began with"):
        check(site)
    with pytest.raises(UpdateError):
        check(site, "../../etc")
    check(site, "")
