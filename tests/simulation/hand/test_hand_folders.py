"""A folder of radiographs: its tables agree with each other and with the pictures."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.data.tables.rows import read_rows
from common.errors import DataError
from simulation.hand.folders import write_folder
from simulation.hand.grid import Layout
from simulation.hand.machines import MACHINES
from simulation.hand.sites import severity_class

LAYOUT = Layout(width_px=64)


def write(folder: Path) -> None:
    write_folder(folder, seed=1, site="site-a", machine=MACHINES[0], patients=6, layout=LAYOUT)


def table(path: Path) -> list[dict[str, str]]:
    return [row for _, row in read_rows(path, ["exam_id"]).rows]


def test_the_sites_of_a_picture_add_up_to_its_total(tmp_path: Path) -> None:
    write(tmp_path / "hands")
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in table(tmp_path / "hands" / "sites.csv"):
        sums[row["exam_id"], row["side"]] += int(row["grade"])
    for row in table(tmp_path / "hands" / "truth.csv"):
        assert (int(row["left"]), int(row["right"])) == (
            sums[row["exam_id"], "left"],
            sums[row["exam_id"], "right"],
        )
        assert int(row["total"]) == int(row["left"]) + int(row["right"])
        assert int(row["class"]) == severity_class(int(row["total"]))
    assert len(table(tmp_path / "hands" / "totals.csv")) == 2 * 6


def test_pictures_are_grey_and_as_the_manifest_names_them(tmp_path: Path) -> None:
    write(tmp_path / "hands")
    for row in table(tmp_path / "hands" / "manifest.csv"):
        with Image.open(tmp_path / "hands" / row["radiograph_path"]) as picture:
            assert (picture.mode, picture.size) == ("L", (64, 56))
            assert np.asarray(picture).std() > 10


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert len(files) == 4 + 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected no folder"):
        write(tmp_path)
