"""Public encoders from phantoms: what lies in the folder, what they know, and what must not know them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

import synofed
from common.errors import ConfigurationError, VerificationError
from common.machine import encoder_files, pretrained
from common.methods.stages import networks
from common.sections.cohort import CohortSettings, PhantomSettings, ShiftSettings
from common.settings import Settings
from common.text.terminal import Console
from server.rounds.weights import StartWeights
from simulation.cli.command_line import commands
from simulation.cohorts import cohort, disjoint
from simulation.engine.progress import Bar, Display
from simulation.phantom.devices import FITTED
from simulation.runs.pretrain import Made, pretrain
from simulation.runs.projection import RIDGE, head, projection
from tests.encoders import NECK, encoder_settings, probe_settings


def made_at(out: Path, settings: Settings) -> Made:
    with Display(Console(quiet=True)) as display:
        return pretrain(settings, out=out, display=display)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_at(tmp_path_factory.mktemp("encoders") / "tiny", encoder_settings())


def test_the_folder_has_every_part_of_every_encoder_and_says_where_they_come_from(made: Made) -> None:
    assert sorted(path.name for path in made.folder.iterdir()) == ["about.json", "encoders.safetensors"]
    assert [path.name for path in made.folder.parent.iterdir() if path.suffix != ".lock"] == [
        "tiny"
    ]  # no draft, no phantoms
    about = made.about
    assert (about.seed, [m.name for m in about.machines]) == (11, ["drawn-11-1", "drawn-11-2"])
    assert about.exams <= 2 * 8 * 6  # some phantoms have impossible grades
    read = encoder_files.read(made.folder)
    parts = ("backbones.0", "backbones.1", "neck", "head")
    assert {name.rpartition("/")[0] for name in read.tensors} == {
        f"encoder{e}/{measurement}/{part}"
        for e in (0, 1)
        for measurement in ("hypertrophy", "vascularity")
        for part in parts
    }
    assert read.part("encoder0/hypertrophy/neck")["weight"].shape == (NECK, 2 * 2 * 4 * 4)
    first, other = (read.part(f"encoder{e}/hypertrophy/backbones.0")["stem.weight"] for e in (0, 1))
    assert not torch.equal(first, other)


def test_the_same_settings_give_the_same_bytes_and_are_not_made_again(made: Made, tmp_path: Path) -> None:
    assert made_at(tmp_path / "again", encoder_settings()).about.sha256 == made.about.sha256
    before = (made.folder / encoder_files.TENSORS).stat().st_mtime_ns
    again = made_at(made.folder, encoder_settings())
    assert again.reused and not made.reused
    assert (made.folder / encoder_files.TENSORS).stat().st_mtime_ns == before


def test_encoders_of_other_settings_are_not_overwritten(made: Made) -> None:
    with pytest.raises(ConfigurationError, match=r"theirs differ in phantom, seed: remove the folder"):
        made_at(made.folder, encoder_settings(seed=12).model_copy(update={"seed": 5}))


def test_changed_tensors_are_not_taken_for_the_encoders(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (encoder_files.TENSORS, encoder_files.ABOUT):
        (copy / name).write_bytes((made.folder / name).read_bytes())
    with (copy / encoder_files.TENSORS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(VerificationError, match=r"SHA-256 that about.json states"):
        made_at(copy, encoder_settings())


class Interrupted(Display):
    """Somebody presses Ctrl-C while the encoders learn."""

    @contextmanager
    def step(self, description: str) -> Iterator[Bar]:
        """One step."""
        with super().step(description) as bar:
            if description == "encoders":
                raise KeyboardInterrupt
            yield bar


@pytest.mark.parametrize("way", ["interrupted", "diverged"])
def test_what_ends_early_leaves_nothing(tmp_path: Path, way: str) -> None:
    display = Interrupted(Console(quiet=True)) if way == "interrupted" else Display(Console(quiet=True))
    settings = encoder_settings({"training": {"batch_size": 8, "local_steps": 3, "learning_rate": 1e6}})
    expected = KeyboardInterrupt if way == "interrupted" else ConfigurationError
    with display, pytest.raises(expected):
        pretrain(settings, out=tmp_path / "tiny", display=display)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cohort": {"folder": "x"}}, r"cohort.phantom.*no patient"),
        ({"cohort": {"phantom": {"sites": 2}}}, r"cohort.phantom.seed"),
        ({"probe": {"encoders": 1}}, r"probe.neck"),
        ({"network": {"weights": "imagenet"}}, r'network.weights = "none"'),
        ({"probe": {"neck": 65}}, r"at most 64, as many features as .* got 65"),
    ],
)
def test_settings_of_which_no_encoder_can_be_made_are_refused(
    tmp_path: Path, changes: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        made_at(tmp_path / "tiny", encoder_settings(changes))


def test_a_projection_tells_grades_apart_and_its_numbers_vary_alike_within_grades() -> None:
    generator = torch.Generator().manual_seed(0)
    grades = torch.randint(0, 4, (4000,), generator=generator)
    mixing = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0] * torch.linspace(0.5, 2, 12)
    hidden = torch.randn(4000, 12, generator=generator)
    hidden[:, 5] += 4 * grades
    features = hidden @ mixing + 100
    weight, bias = projection(features, grades, size=5)
    numbers = features @ weight.T + bias
    torch.testing.assert_close(numbers.mean(0), torch.zeros(5), atol=2e-2, rtol=0)
    within = torch.stack([torch.cov(numbers[grades == grade].T) for grade in range(4)]).mean(0)
    torch.testing.assert_close(within, torch.eye(5), atol=0.1, rtol=0)
    means = torch.stack([numbers[grades == grade].mean(0) for grade in range(4)])
    spread = means.std(0)
    assert spread[0] > 10 * spread[1:].max(), "one direction tells these grades apart, and it comes first"


@pytest.fixture(scope="module")
def about(made: Made) -> encoder_files.About:
    return made.about


def private_cohort(seed: int = 1, **changes: object) -> CohortSettings:
    return CohortSettings(phantom=PhantomSettings.model_validate({"seed": seed, "sites": 6} | changes))


def test_a_private_cohort_of_other_seed_and_machines_shares_nothing(about: encoder_files.About) -> None:
    assert disjoint.overlap(about, private_cohort(), seed=11) == ()
    assert disjoint.overlap(about, CohortSettings(folder=Path("/nowhere")), seed=11) == ()  # no phantoms


def test_the_same_seed_and_machines_are_named(about: encoder_files.About) -> None:
    drawn = {"sites": 1, "unseen_device": False, "shift": ShiftSettings(devices="drawn")}
    assert disjoint.overlap(about, private_cohort(11, **drawn), seed=0) == (
        "the seed 11",
        "the machine drawn-11-1",
    )
    unseeded = CohortSettings(phantom=PhantomSettings(sites=2))
    assert disjoint.overlap(about, unseeded, seed=11) == ("the seed 11",)


def test_another_preset_of_a_machine_is_the_same_machine(about: encoder_files.About) -> None:
    machine = encoder_files.Machine(name=FITTED[0].name, profile="0" * 64)
    knows_one = about.model_copy(update={"machines": (machine,)})
    assert disjoint.overlap(knows_one, private_cohort(), seed=0) == ("the machines logiq-e9, logiq-e9-2",)


def test_a_cohort_that_lies_in_a_folder_is_known_by_its_index(
    about: encoder_files.About, tmp_path: Path
) -> None:
    phantom = PhantomSettings(sites=1, patients=2, exams_per_patient=1, image_px=64, unseen_device=False)
    cohort.make(phantom, seed=11, out=tmp_path / "cohort", workers=1)
    assert disjoint.overlap(about, CohortSettings(folder=tmp_path / "cohort"), seed=0) == ("the seed 11",)


def test_a_private_campaign_on_encoders_that_know_its_phantoms_is_refused(made: Made) -> None:
    settings = probe_settings(made.folder, {"cohort": {"phantom": {"sites": 2}}})
    disjoint.check(settings)
    with pytest.raises(ConfigurationError, match=r"share the seed 11: make others"):
        disjoint.check(settings.model_copy(update={"seed": 11}))


def test_the_command_says_what_there_is(made: Made, tmp_path: Path) -> None:
    config = Path(__file__).parents[3] / "configs" / "pretrain.toml"
    small = [
        "network.width=4", "network.image_px=16", "network.hidden=6", "training.local_steps=2", "federation.rounds=1",
        "probe.encoders=1", "cohort.phantom.sites=2", "cohort.phantom.patients=10", "cohort.phantom.image_px=64",
    ]  # fmt: skip
    overrides = [part for value in small for part in ("--set", value)]
    command = ["pretrain", str(config), "--out", str(tmp_path / "out"), "--json", *overrides]
    first, second = (CliRunner().invoke(commands(), command) for _ in range(2))
    assert first.exit_code == 0, first.output
    facts = json.loads(first.stdout)
    assert facts["folder"] == str(tmp_path / "out") and not facts["reused"]
    assert facts["sha256"] == encoder_files.read_about(tmp_path / "out").sha256
    assert json.loads(second.stdout)["reused"]
    assert synofed.pretrain(config, overrides=small, out=tmp_path / "out") == tmp_path / "out"


def test_a_head_tells_grades_apart_as_well_as_a_linear_head_can() -> None:
    generator = torch.Generator().manual_seed(0)
    grades = torch.arange(400) % 4
    features = torch.nn.functional.one_hot(grades, 4).float() + torch.randn(400, 4, generator=generator) * 0.1
    weight, bias = head(features, grades, classes=4)
    assert (weight.shape, bias.shape) == ((4, 4), (4,))
    answers = features @ weight.T + bias
    assert (answers.argmax(dim=1) == grades).float().mean() > 0.99
    weight_gradient = torch.func.grad(
        lambda w: torch.nn.functional.cross_entropy(features @ w.T + bias, grades) + RIDGE * w.square().sum()
    )(weight)
    assert weight_gradient.norm() < 1e-4, "nothing better is near"


def test_private_heads_start_at_the_encoders_own(made: Made, tmp_path: Path) -> None:
    public = probe_settings(made.folder, probe={"start": "encoder"})
    settings = pretrained.resolved(public)
    heads = {spec.name: spec for spec in networks(settings).values()}
    start = StartWeights(settings, tmp_path)
    read = encoder_files.read(made.folder)
    for name, spec in heads.items():
        part = read.part(f"encoder{spec.replica}/{spec.target.measurement}/head")
        np.testing.assert_array_equal(
            start.start(spec), torch.cat([part["weight"].flatten(), part["bias"]]).numpy()
        )
        assert "head" not in start.frozen(spec), name
    random = probe_settings(made.folder)
    assert pretrained.resolved(random).network.weights_sha256 != settings.network.weights_sha256
    assert "start" not in random.plan()["probe"], "old plans keep their hash"
    with pytest.raises(ValidationError, match="one head each"):
        probe_settings(made.folder, probe={"start": "encoder", "initialisations": 2})


def test_encoders_from_before_there_were_heads_are_not_taken_for_the_same(made: Made, tmp_path: Path) -> None:
    read = encoder_files.read(made.folder)
    old = tmp_path / "old"
    old.mkdir()
    settings = {name: value for name, value in read.about.settings.items() if name != "heads"}
    tensors = {name: tensor for name, tensor in read.tensors.items() if "/head/" not in name}
    encoder_files.write(old, read.about.model_copy(update={"settings": settings}), tensors)
    with pytest.raises(ConfigurationError, match="differ in heads"):
        made_at(old, encoder_settings())
    pretrained.resolved(probe_settings(old))
    asked = pretrained.resolved(probe_settings(old, probe={"start": "encoder"}))
    spec = networks(asked)["probe/member0/hypertrophy"]
    with pytest.raises(ConfigurationError, match="head, got none"):
        StartWeights(asked, tmp_path).start(spec)
