"""The study of what privacy costs, and of which networks give more for it: ``python -m private_utility``.

It makes both parts anew and writes their table, text and figure. With ``--only`` it makes one of them (or none), and
the other stays as it was found before, with the versions that found it (:mod:`private_utility.records`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from common import settings as configuration
from common.errors import SynofedError
from common.settings import Settings
from common.text.terminal import Console
from private_utility import networks_study, records, utility_study, utility_text, utility_view
from private_utility.networks_study import Design
from private_utility.networks_view import Comparison
from private_utility.records import Made, Record
from private_utility.utility_study import QUICK, Say, Size
from private_utility.utility_view import Study
from simulation.engine.progress import Display

CONFIG = Path("configs/rating_private.toml")
VARIED = Path("configs/pretrain_varied.toml")
DESIGNS = (
    Design(name="today's heads"),
    Design(name="varied machines, public start", config=VARIED, encoders=2, start="encoder"),
    Design(name="varied machines, four encoders", config=VARIED),
    Design(name="varied machines, four encoders, public start", config=VARIED, start="encoder"),
    Design(
        name="varied machines, four encoders, public start, norms",
        config=VARIED,
        start="encoder",
        train="norms",
    ),
)
"""The heads of the configuration first."""
PARTS = ("study", "networks", "text")


def main() -> None:
    """Make what is asked for, and write all."""
    given = _arguments().parse_args()
    settings = _settings(given)
    console, began = Console(width=200), time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {text}")

    size, folder = (QUICK, given.cohorts / "quick") if given.quick else (Size(), given.cohorts)
    before = records.read(given.out)
    study = before.study if before is not None else None
    networks = before.networks if before is not None else None
    if given.only in (None, "study"):
        study = _study(settings, size, folder, given, say)
    if given.only in (None, "networks"):
        networks = _networks(settings, size, folder, Display(console), say)
    if study is None:
        raise SystemExit(
            f"Expected what the study found in {given.out / records.FOUND}: make it without --only"
        )
    utility_text.write(Record(study=study, networks=networks), given.out)
    if given.table is not None:
        given.table.write_text(utility_view.table(study.found), encoding="utf-8")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m private_utility",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="a private campaign of method probe")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument(
        "--cohorts", type=Path, default=Path("cohorts/private-utility"), help="folder of what is made for it"
    )
    parser.add_argument(
        "--encoders", type=Path, help="folder that synofed pretrain wrote; default: the configuration's"
    )
    parser.add_argument("--only", choices=PARTS, help="what is made anew; text: nothing")
    parser.add_argument("--table", type=Path, help="also write the table that `synofed privacy plan` reads")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="a few patients, to see that it works")
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    settings = configuration.load(given.config)
    if given.encoders is None:
        return settings
    network = settings.network.model_copy(update={"weights": str(given.encoders)})
    return settings.model_copy(update={"network": network})


def _study(settings: Settings, size: Size, cohorts: Path, given: argparse.Namespace, say: Say) -> Made[Study]:
    found = utility_study.study(settings, size, cohorts=cohorts, workers=given.workers, say=say)
    return Made.now(found)


def _networks(settings: Settings, size: Size, folder: Path, display: Display, say: Say) -> Made[Comparison]:
    patients = min(max(size.patients), networks_study.PATIENTS)
    one = replace(size, patients=(patients,), rehearsals=min(size.rehearsals, 2), alone=False)
    found = networks_study.compare(
        settings, DESIGNS, size=one, folder=folder / "networks", display=display, say=say
    )
    return Made.now(found)


if __name__ == "__main__":
    try:
        main()
    except SynofedError as error:
        raise SystemExit(str(error)) from None
