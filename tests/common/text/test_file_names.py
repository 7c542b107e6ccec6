from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.settings import parse
from common.text.file_names import file_name
from tests.common.text.test_terminal import NAMES, UNSEEN

NETWORKS = ("rating/fold0/vascularity/gt1/a", "andersen/fold0/hypertrophy/all/lr0.001", "g0", "train_b-2")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_lie_where_they_lay(name: str) -> None:
    assert file_name(name) == name.replace("/", ".")


@pytest.mark.parametrize(
    "name", [*NAMES, *UNSEEN, "", ".", "..", "../..", "/", "-rf", ".hidden", "a" * 256, "ä" * 128]
)
def test_a_file_can_be_called_so(name: str, tmp_path: Path) -> None:
    place = tmp_path / f".{file_name(name)}-12345678.safetensors"
    place.touch()
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
    assert file_name(name)[0] not in ".-"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.text(max_size=300).filter(lambda name: "." not in name), min_size=2, max_size=6))
def test_other_names_are_other_files(names: set[str]) -> None:
    files = {file_name(name) for name in names}
    assert len(files) == len(names)
    assert all(len(file.encode()) <= 200 and "/" not in file and "\0" not in file for file in files)


def test_a_settings_name_is_short_enough_for_every_file() -> None:
    text = '[images.gs]\nkind = "grey"\n[measurements.{name}]\nimages = ["gs"]\n'
    assert parse('name = "a"\n' + text.format(name="m" * 64)).measurements
    with pytest.raises(Exception, match="at most 64 characters"):
        parse('name = "a"\n' + text.format(name="m" * 65))
