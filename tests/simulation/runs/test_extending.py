"""The examples of docs/extending.md, as a user runs them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import synofed
from common.aggregation.algorithms import FederatedAlgorithm, algorithm
from common.aggregation.federated import UPDATE
from common.aggregation.mean import InMemory, Weighted
from common.errors import ConfigurationError
from common.networks import build
from common.networks.backbones import initialise
from common.networks.spec import NetworkSpec, Target
from common.sections.federation import FederationSettings
from common.sections.networks import NetworkSettings
from simulation.cohorts import partition, public
from simulation.cohorts.partition import Patient
from tests.simulation.cohorts.test_public import COLUMNS, collection, make_pictures, site_patients

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
CONFIG = """
name = "extended"
method = "one_network:OneNetwork"
[images.gs]
kind = "grey"
[measurements.steatosis]
images = ["gs"]
[network]
backbone = "tiny_net:TinyNet"
image_px = 16
width = 4
[training]
local_steps = 2
batch_size = 8
[federation]
rounds = 2
rule = "geometric_median:geometric_median"
algorithm = "weighted_momentum:Momentum"
[federation.options]
beta = 0.5
[rating]
folds = 2
[evaluate]
bootstrap = 100
baselines = true
[cohort.public]
by = "by_severity:by_severity"
sites = 3
images = "{folder}"
labels = "{folder}/labels.csv"
[cohort.public.columns]
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_the_examples_are_short_and_all_of_them_are_in_the_guide() -> None:
    guide = (EXAMPLES.parent / "extending.md").read_text(encoding="utf-8")
    examples = sorted(EXAMPLES.glob("*.py"))
    assert len(examples) == 5
    for example in examples:
        lines = example.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 60
        assert f"(examples/{example.name})" in guide


@pytest.mark.soak
def test_all_of_them_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # cohorts are made in the working folder
    folder = make_pictures(tmp_path / "public", patients=36)
    config = tmp_path / "extended.toml"
    columns = "\n".join(f'{key} = "{value}"' for key, value in COLUMNS.items())
    config.write_text(CONFIG.format(folder=folder) + columns, encoding="utf-8")
    run = synofed.simulate(config, out=tmp_path / "run")
    predictions = run.predictions()
    assert set(predictions["site"]) == {"site-1", "site-2", "site-3"}
    assert {"p:one/steatosis:0", "decision_steatosis"} <= set(predictions)
    network = run.network("one/steatosis")
    assert sum(isinstance(m, nn.GroupNorm) for m in network.modules()) == 2


def aggregated(momentum: FederatedAlgorithm, first: float, second: float) -> tuple[float, float]:
    """One trained weight and one buffer, after two rounds in which all moved alike."""
    spec = NetworkSpec(name="x", images=("gs",), target=Target(measurement="m"))
    layout = build.layout(spec, NetworkSettings(backbone="resnet18", image_px=32))
    state = momentum.init(np.zeros(layout.size, dtype=np.float32), layout)
    for moved in (first, second):
        update = np.full(layout.size, moved, dtype=np.float32)
        state = momentum.aggregate(state, {UPDATE: update}, participation=1.0)
    assert layout.trained_size < layout.size
    return float(state.weights[0]), float(state.weights[-1])


def own(**options: float) -> FederatedAlgorithm:
    settings = FederationSettings(algorithm="weighted_momentum:Momentum", options=dict(options))
    return algorithm(settings)


def test_momentum_is_what_it_says_and_without_any_it_is_fedavg() -> None:
    assert aggregated(own(beta=0), 1, 2) == aggregated(algorithm(FederationSettings()), 1, 2) == (3, 3)
    assert aggregated(own(beta=0.5), 1, 2) == (1 + 2.5, 3)
    with pytest.raises(ConfigurationError, match=r"beta from 0 to below 1, got 1\.5"):
        own(beta=1.5)


def test_options_are_part_of_the_plan_and_of_ones_own_code_alone() -> None:
    plain = FederationSettings(algorithm="weighted_momentum:Momentum")
    assert "options" not in plain.model_dump()
    assert FederationSettings(algorithm="a:B", options={"beta": 0.5}).model_dump()["options"] == {"beta": 0.5}
    with pytest.raises(ValidationError, match=r"for code of your own, but federation\.algorithm is 'fedavg'"):
        FederationSettings(options={"beta": 0.5})
    with pytest.raises(ValidationError, match=r"network\.backbone is 'small'"):
        NetworkSettings(options={"depth": 3})
    one, other = (NetworkSettings(backbone="a:B", options={"depth": depth}) for depth in (3, 4))
    assert hash(one) != hash(other)


BROKEN = {
    "class Algorithm:\n    pass\n": "TypeError: Algorithm.. takes no arguments",
    "class Algorithm:\n    def __init__(self, settings):\n        settings.nothing\n": "AttributeError: .*nothing",
    "raise ValueError('not today')\n": "ValueError: not today",
    "class Algorithm(\n": "SyntaxError",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_fails_in_somebodys_code_is_told_with_file_and_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match=BROKEN[text]) as caught:
        algorithm(FederationSettings(algorithm=f"{name}:Algorithm"))
    assert f"{name}.py, line " in str(caught.value)


def test_by_severity_puts_the_mild_first(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "public")
    public.split_collection(
        collection(folder), by="by_severity:by_severity", sites=4, seed=0, out=tmp_path / "c", held_out=0.3
    )
    patients = site_patients(tmp_path / "c")
    grades = [{int(p.removeprefix("p")) % 4 for p in patients[f"site-{i}"]} for i in (1, 2, 3, 4)]
    assert grades == [{0}, {1}, {2}, {3}]


def forgetful(patients: Sequence[Patient], *, sites: int, rng: np.random.Generator) -> partition.Partition:
    return {"site-1": list(patients[1:]), "site-2": []}


def test_a_partition_that_forgets_a_patient_is_refused() -> None:
    patients = [Patient(patient_id=f"p{i}", grade=0) for i in range(5)]
    with pytest.raises(ConfigurationError, match="4 places for 4 patients"):
        partition.by_own(patients, forgetful, sites=2, rng=np.random.default_rng(0))


def test_the_geometric_median_is_what_it_says() -> None:
    from geometric_median import geometric_median  # type: ignore[import-not-found]

    def of(*points: tuple[float, ...]) -> np.ndarray:
        updates = [
            Weighted(source=InMemory(np.array(point, dtype=np.float32)), num_examples=5) for point in points
        ]
        return np.asarray(geometric_median(updates, size=2))

    # of three points with all angles below 120 degrees: Fermat's point; here, by symmetry, at 1 / sqrt(3)
    np.testing.assert_allclose(of((-1, 0), (1, 0), (0, 2)), (0, 3**-0.5), atol=1e-3)
    near = of((0, 0), (0.1, 0), (0, 0.1), (1e6, 1e6))
    assert np.abs(near).max() < 0.2


class Unknown(nn.Module):
    """A layer with a weight that nobody draws."""

    features = 4

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class Known(Unknown):
    """The same with a rule."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.scale)


def test_weights_that_nobody_draws_are_refused_and_others_follow_the_seed() -> None:
    with pytest.raises(ConfigurationError, match="Unknown has weights and none"):
        initialise(Unknown(NetworkSettings()), torch.Generator())
    before = torch.get_rng_state()
    spec = NetworkSpec(name="x", images=("gs",), target=Target(measurement="m"))
    settings = NetworkSettings(backbone=f"{__name__}:Known")
    one, again, other = (build.initial_weights(spec, settings, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
