"""``synofed site ledger``: what the site's patients have spent, and whether the ledger is whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from typer.core import TyperGroup

from client.cli.cli_options import AsJson, Folder, KeptReceipts, Noted
from client.ledger import issued_receipts
from client.site.site import Site
from common.text.terminal import Console, Table

if TYPE_CHECKING:
    from client.ledger.ledger_spent import Spent

BAR_WIDTH = 40
Plans = Annotated[
    list[Path] | None,
    typer.Option("--plan", help="The file of a plan that the restored copy does not know; repeatable."),
]
Whole = Annotated[
    bool,
    typer.Option(
        "--whole",
        help="Debit everything that the receipts prove, on top of what is booked: for a site that has released "
        "again since the backup was restored.",
    ),
]


class _ShowsByDefault(TyperGroup):
    """``ledger FOLDER`` is ``ledger show FOLDER``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] != "--help" and not set(args) & set(self.commands):
            args = ["show", *args]
        return super().parse_args(ctx, args)


commands = typer.Typer(cls=_ShowsByDefault, no_args_is_help=True)


@commands.command("show")
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Show, by campaign, what the patient who has spent most has spent and has left. The default command."""
    from client.ledger.ledger_spent import spent  # noqa: PLC0415  accounting: seconds

    site = Site.open(folder)
    found = spent(site)
    if as_json:
        typer.echo(json.dumps({"site": site.name, **asdict(found)}))
        return
    console = Console()
    console.print(_table(site.name, found))
    if found.maximum_epsilon is not None:
        console.print(_bar(found.epsilon, found.maximum_epsilon))
    console.print("\n".join(_told(found)), soft_wrap=True)


@commands.command("patients")
def patients(folder: Folder, as_json: AsJson = False) -> None:
    """Show what every patient has spent, by the number that the ledger has for them."""
    from client.ledger.ledger_spent import by_patient  # noqa: PLC0415  accounting: seconds

    site = Site.open(folder)
    found = by_patient(site)
    if as_json:
        typer.echo(json.dumps({"site": site.name, "patients": [asdict(one) for one in found]}))
        return
    table = Table("patient", "epsilon", "", title=f"{site.name}: all campaigns together", box=None)
    for one in found:
        also = ["no bound"] * one.unbounded + ["withdrew"] * one.withdrew
        table.add_row(str(one.number), f"{one.epsilon:.3f}", ", ".join(also))
    Console().print(table if found else "Nothing was booked to anybody.")


@commands.command("head")
def head(folder: Folder, as_json: AsJson = False) -> None:
    """Print a short code for the ledger's last entry, to write down on paper."""
    from client.ledger import ledger_file  # noqa: PLC0415
    from common.privacy.accounting import chain  # noqa: PLC0415

    site = Site.open(folder)
    end = ledger_file.read(folder).head
    if as_json:
        typer.echo(json.dumps({"site": site.name, "code": chain.spoken(end), **asdict(end)}))
        return
    typer.echo(chain.spoken(end))


@commands.command("verify")
def verify(
    folder: Folder,
    kept: KeptReceipts = None,
    noted: Noted = None,
    as_json: AsJson = False,
) -> None:
    """Check that no entry was edited, dropped or moved, and that nothing known from elsewhere is missing."""
    from client.ledger import ledger_check  # noqa: PLC0415
    from common.privacy.accounting import chain  # noqa: PLC0415

    site = Site.open(folder)
    found = ledger_check.check(
        folder, [one for path in kept or [] for one in issued_receipts.read(path)], noted or []
    )
    if as_json:
        typer.echo(json.dumps({"site": site.name, "code": chain.spoken(found.head), **asdict(found)}))
        return
    lines = [
        f"{site.name}: {found.head.sequence} entries, {found.private} private releases, {found.unbounded} bookings "
        f"without bound, {found.patients} patients, {found.withdrawn} withdrew. Head {chain.spoken(found.head)}",
        f"{found.replies} replies of the site's log, {found.receipts} receipts and {len(noted or [])} notes are "
        f"borne out.",
    ]
    if found.head.torn_bytes:
        lines.append(
            f"After them stand {found.head.torn_bytes} bytes of an entry that a crash cut short; nothing left for it."
        )
    if not (kept or noted):
        lines.append(
            "Ledger and log put back together to an older copy show only against receipts or a noted code: "
            "--receipts FILE, --noted CODE"
        )
    typer.echo("\n".join(lines))


@commands.command("reconcile")
def reconcile(
    folder: Folder,
    kept: KeptReceipts = None,
    plan: Plans = None,
    whole: Whole = False,
    as_json: AsJson = False,
) -> None:
    """After restoring a backup, debit what this site's own receipts prove and the ledger has lost, then go on."""
    from client.consent import reconcile as reconciling  # noqa: PLC0415  accounting: seconds

    site = Site.open(folder)
    given = [one for path in kept or [] for one in issued_receipts.read(path)]
    found = reconciling.reconcile(site, given, plan or [], whole=whole)
    if as_json:
        said = [{"plan_hash": one.receipt.plan_hash, "debits": one.debits} for one in found]
        typer.echo(json.dumps({"site": site.name, "settled": said}))
        return
    for one in found:
        typer.echo(
            f"{one.receipt.campaign} {one.receipt.plan_hash[:12]}: {one.debits} debits that its receipts prove were "
            f"booked to every patient who may have taken part."
        )
    typer.echo(
        "All is settled. Withdrawals and approvals since the backup are lost: give each of them again."
        if found
        else "Log and ledger hold everything that this site is known to have signed: there is nothing to settle."
    )


def _table(name: str, found: Spent) -> Table:
    table = Table(title=f"{name}: the patient who has spent most")
    for column in ("campaign", "releases", "patients", "epsilon alone"):
        table.add_column(column, justify="left" if column == "campaign" else "right")
    for row in found.campaigns:
        alone = f"{row.epsilon:.3f}" if row.private else ""
        alone = " + ".join(part for part in (alone, "no bound" if row.unbounded else "") if part)
        table.add_row(
            f"{row.campaign} {row.plan_hash[:12]}", str(row.private or "-"), str(row.patients), alone
        )
    table.add_section()
    left = "-" if found.left is None else f"{found.left:.3f}"
    together = [
        f"{found.epsilon:.3f}" if found.epsilon else "",
        "no bound" if found.unbounded_patients else "",
    ]
    table.add_row("all together", "", str(found.patients), " + ".join(filter(None, together)) or "0")
    table.add_row("left", "", "", left)
    return table


def _bar(epsilon: float, maximum: float) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=maximum, completed=min(epsilon, maximum), width=BAR_WIDTH)
    line.add_row("spent", bar, f"{epsilon:.3f} of {maximum:g}")
    return line


def _told(found: Spent) -> list[str]:
    lines = [
        f"Epsilon at delta {found.delta:g}, for one patient added or removed, over all networks, rounds and "
        f"campaigns (privacy loss distributions). Those of single campaigns do not add up to the total: they compose."
    ]
    if found.maximum_epsilon is None:
        lines.append("No private release is permitted: policy.maximum_epsilon is not set in site.toml.")
    lines += [
        f"{one.left_out} patients had too little left for the last release of {one.campaign} "
        f"{one.plan_hash[:12]} and "
        f"took no part in it; the centre was not told."
        for one in found.campaigns
        if one.left_out
    ]
    if found.unbounded_patients:
        lines.append(
            f"{found.unbounded_patients} of {found.patients} patients stand behind releases without differential "
            f"privacy: for them no epsilon bounds what was revealed, whatever is printed above."
        )
    return lines
