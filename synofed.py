"""synofed: hospitals train synovitis-scoring networks together on ultrasound scans that never leave them.

The one public module: :func:`simulate` and :class:`Run`, and :func:`main`, the command line.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import typer
    from torch import Tensor, nn

__all__ = ["Run", "main", "simulate"]

_PACKAGES = ("common", "client", "server", "simulation")
_COMMANDS = {
    "simulate": (
        "simulation.cli.researcher_cli:simulate",
        "Run a whole study: sites, federated rounds, evaluation, report.",
    ),
    "plan": (
        "simulation.cli.researcher_cli:plan",
        "Show what a run or study will cost before it starts: bytes, disk, memory, hours, epsilon.",
    ),
    "report": ("simulation.cli.researcher_cli:report", "Rewrite a run's report."),
    "passport": (
        "server.cli.passport_cli:passport",
        "Write an ensemble's passport: what it is, what it is for, how well it grades; signed by the centre.",
    ),
    "score": (
        "simulation.cli.score_cli:score",
        "Score one exam's pictures, or a manifest's, with a finished run's ensemble.",
    ),
    "study": (
        "simulation.cli.study_cli:study",
        "Compare systems, settings or conditions: many runs over the same patients, and their table.",
    ),
    "pretrain": (
        "simulation.cli.pretrain_cli:pretrain",
        "Train public encoders on phantoms, for private campaigns to build on. They cost no privacy.",
    ),
    "readers": (
        "simulation.cli.readers_cli:readers",
        "Score a reader study: each reader and their average, without and with assistance.",
    ),
    "cohort": ("simulation.cli.cohort_cli:cohort", "Phantom or public data, laid out as site folders."),
    "data": ("client.cli.data_cli:data", "A hospital's scans: import and check them, or withdraw a patient."),
    "site": (
        "client.cli.site_cli:site",
        "A hospital's site: join, check, approve campaigns, and see what left.",
    ),
    "federation": (
        "server.cli.centre_cli:federation",
        "The coordinating centre: certificates, sites, and the running service.",
    ),
    "run": ("server.cli.centre_cli:run", "The coordinating centre's campaigns: submit, watch, stop, resume."),
    "privacy": (
        "simulation.cli.privacy_cli:privacy",
        "Differential privacy: plan what it costs, check that its claims hold.",
    ),
}
"""Name -> where the command is, and what lists say of it (:mod:`common.text.command_table`)."""


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

    def pictures(self, network: str, exam: Mapping[str, str | Path]) -> list[Tensor]:
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
        from common.exam import ImageRef  # noqa: PLC0415
        from common.machine import network_files  # noqa: PLC0415
        from server.runs.run_folder import RunFolder  # noqa: PLC0415
        from simulation.evaluation import score  # noqa: PLC0415

        spec = network_files.load(network_files.path(self.path / "networks", network)).spec
        refs = {name: ImageRef(path=str(path)) for name, path in exam.items()}
        return score.prepared(refs, spec.images, RunFolder(self.path).settings())


def simulate(
    config: str | Path, *, overrides: Sequence[str] = (), out: str | Path | None = None, resume: bool = False
) -> Run:
    """Run a multi-centre study on this machine.

    Args:
        config: a TOML file, as in ``configs/``.
        overrides: ``section.key=value`` pairs that replace settings.
        out: the run's folder; ``runs/<name>`` by default. A former run there is moved aside.
        resume: go on with a run that was interrupted.

    Returns:
        The finished run.

    Raises:
        common.errors.SynofedError: for what is wrong with settings, data or sites, said in full.
    """
    _check_packages()
    from common import settings  # noqa: PLC0415
    from common.text.terminal import Console  # noqa: PLC0415
    from simulation.engine.progress import Display  # noqa: PLC0415
    from simulation.runs.simulate import simulate as run  # noqa: PLC0415

    configuration = settings.load(Path(config), overrides=overrides)
    folder = Path(out) if out is not None else Path("runs") / configuration.name
    with Display(Console(stderr=True)) as display:
        path, _ = run(configuration, out=folder, resume=resume, display=display)
    return Run(path)


def main() -> None:
    """The command line; exit codes as ``common.errors`` lists them.

    With ``--json`` an error is JSON too, on standard error: ``{"error": {"kind", "exit_code", "message"}}``. What
    nobody foresaw is shown with its traceback, which holds no values of variables: it may be sent to somebody.
    """
    try:
        _check_packages()
    except ImportError as error:
        sys.exit(f"Error: {error}")
    import typer  # noqa: PLC0415

    from common.errors import SynofedError, explained  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters that a name has
            stream.reconfigure(errors="backslashreplace")
    try:
        # not through Typer, which would show the variables of whatever failed
        typer.main.get_command(_commands())(prog_name="synofed")
    except SynofedError as error:
        _say(_told(str(error), code=error.code, exit_code=error.exit_code))
        sys.exit(error.exit_code)
    except OSError as error:
        _say(_told(explained(error), code="internal", exit_code=1))
        sys.exit(1)
    except KeyboardInterrupt:
        _say("Interrupted. Go on with --resume.\n")
        sys.exit(130)
    except Exception:
        _say(traceback.format_exc())
        sys.exit(1)


def _told(message: str, *, code: str, exit_code: int) -> str:
    """An error as a person reads it, or as JSON where the command was asked for that."""
    if "--json" not in sys.argv:
        return f"Error: {message}\n"
    return json.dumps({"error": {"kind": code, "exit_code": exit_code, "message": message}}) + "\n"


def _say(text: str) -> None:
    """To standard error, without secrets and without what a terminal would obey."""
    from common.text.redaction import redacted  # noqa: PLC0415
    from common.text.terminal import LAYOUT, visible  # noqa: PLC0415

    sys.stderr.write(visible(redacted(text), keep=LAYOUT))


def _commands() -> typer.Typer:
    """The command line."""
    import typer  # noqa: PLC0415

    from common.text.command_table import group  # noqa: PLC0415

    app = typer.Typer(cls=group(_COMMANDS), no_args_is_help=True)

    def show_version(asked: bool) -> None:
        if asked:
            from common.version import VERSION  # noqa: PLC0415

            typer.echo(f"synofed {VERSION}")
            raise typer.Exit

    @app.callback()
    def _app(
        version: bool = typer.Option(
            False, "--version", help="Print the version.", callback=show_version, is_eager=True
        ),
    ) -> None:
        """Train networks across hospitals: simulate studies, run a hospital's site, run the coordinating centre."""

    return app


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
