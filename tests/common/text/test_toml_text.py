from pathlib import Path

import pytest

from client.data.ingest import mapping
from client.site.site import Site
from common import settings
from common.errors import ConfigurationError
from common.text import toml_text
from server.federation.home import Home
from simulation.studies import study

MARKS = ("utf-8-sig", "utf-16", "utf-8")


@pytest.mark.parametrize("encoding", MARKS)
def test_a_mark_is_no_part_of_a_configuration(tmp_path: Path, encoding: str) -> None:
    text = 'name = "t"\n[images.gs]\nkind = "grey"\n[measurements.grade]\nimages = ["gs"]\n'
    (tmp_path / "c.toml").write_bytes(text.encode(encoding))
    assert settings.load(tmp_path / "c.toml").name == "t"
    assert not study.is_study(tmp_path / "c.toml")
    assert settings.parse("\ufeff" + text).name == "t"


@pytest.mark.parametrize("encoding", MARKS)
def test_a_mark_is_no_part_of_site_and_mapping(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "site.toml").write_bytes('name = "north"\n'.encode(encoding))
    assert Site.open(tmp_path).name == "north"
    (tmp_path / "m.toml").write_bytes('[values.joint]\n"Hüfte" = "hip"\n'.encode(encoding))
    assert mapping.load(tmp_path / "m.toml").values["joint"] == {"Hüfte": "hip"}


def test_another_code_page_is_named_with_its_place(tmp_path: Path) -> None:
    content = 'name = "north"\n# Größe\n'.encode("cp1252")
    wanted = (
        r"line 2 has the byte 0xF6, which is not UTF-8 \(in Windows-1252 it is 'ö'\): save the file as UTF-8"
    )
    with pytest.raises(ConfigurationError, match=wanted):
        toml_text.read(content, source="x.toml")
    for name in ("site.toml", "federation.toml", "c.toml"):
        (tmp_path / name).write_bytes(content)
    for load in (
        lambda: Site.open(tmp_path),
        lambda: settings.load(tmp_path / "c.toml"),
        lambda: mapping.load(tmp_path / "c.toml"),
        lambda: study.load(tmp_path / "c.toml"),
        lambda: Home(path=tmp_path).federation(),
    ):
        with pytest.raises(ConfigurationError, match=wanted):
            load()


def test_what_is_no_toml_is_said() -> None:
    with pytest.raises(ConfigurationError, match=r"x.toml is not TOML: Invalid"):
        toml_text.read(b"a = \n", source="x.toml")
