"""``synofed site officer``: the privacy officer signs what the site asks, in a process of their own account."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.cli_options import AsJson
from client.cli.policy_cli import PassphraseFile, passphrase
from client.site import officer
from client.site.site import Site
from common.errors import DataError, SynofedError
from common.text.visible import visible

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from client.officer.question import Question
    from client.officer.spool import Spool

LOOK_S = 0.5
TAKEN_S = 10.0
"""How long is waited for what the site makes of an answer; it needs no more than its pages being served."""


def sign(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="SITE_FOLDER|FOLDER",
            help="The site's folder, or that of [officer] in its site.toml where another account reaches it.",
        ),
    ],
    key: Annotated[Path, typer.Option("--key", help="The officer's key file.")],
    passphrase_file: PassphraseFile = None,
    stay: Annotated[
        bool,
        typer.Option("--stay", help="Wait for more questions until Ctrl-C; the key stays open meanwhile."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the site's pages ask the privacy officer, in full, and sign what the officer agrees to.

    It is started by the officer, in an account that alone can read the key.
    """
    spool = _spool(folder)
    signing = officer.load(key, passphrase=passphrase(passphrase_file, confirm=False))
    seen: set[str] = set()
    while True:
        for question in spool.questions():
            if question.id not in seen and spool.answer(question.id) is None:
                _answer(spool, question, signing, as_json=as_json)
            seen.add(question.id)
        if not stay:
            break
        time.sleep(LOOK_S)
    if not seen and not as_json:
        typer.echo(
            "Nothing waits for a signature: decide in the pages of `synofed serve` first, or use --stay."
        )


def _spool(folder: Path) -> Spool:
    from client.officer.spool import Spool  # noqa: PLC0415

    if (folder / "site.toml").is_file():
        return Spool.of(Site.open(folder))
    if not (folder / "questions").is_dir():
        raise DataError(
            f"Expected a site's folder at {folder}, or one with questions, which the site's pages make when they "
            f"first ask: got neither, or this account may not look into it"
        )
    return Spool(folder)


def _answer(spool: Spool, question: Question, key: Ed25519PrivateKey, *, as_json: bool) -> None:
    from client.officer import answering  # noqa: PLC0415  torch: networks are counted
    from client.officer.question import Answer  # noqa: PLC0415

    typer.echo(f"\n{'─' * 60}\n", err=as_json)
    try:
        shown = answering.shown(question, key.public_key().public_bytes_raw().hex())
    except SynofedError as error:
        typer.echo(
            f"What {question.site} asks cannot be shown, so it is not signed: {visible(str(error))}",
            err=True,
        )
        return
    typer.echo(f"{shown.text}\n", err=as_json)
    if shown.objection:
        typer.echo(f"This cannot be signed: {shown.objection}", err=as_json)
        agreed = False
        if not typer.confirm("Tell the site that you refuse to sign it?", err=True):
            return
    else:
        agreed = typer.confirm(
            f"Sign this with key {officer.spoken(key.public_key().public_bytes_raw().hex())}?", err=True
        )
    spool.put(answering.sign(shown, key) if agreed else Answer(question=question.id))
    _tell(spool, question, agreed=agreed, as_json=as_json)


def _tell(spool: Spool, question: Question, *, agreed: bool, as_json: bool) -> None:
    until = time.monotonic() + TAKEN_S
    while (became := spool.became(question.id)) is None and time.monotonic() < until:
        time.sleep(LOOK_S / 5)
    if as_json:
        facts = {"question": question.id, "title": question.title, "agreed": agreed}
        outcome = {"outcome": became.outcome, "said": became.said} if became is not None else {}
        typer.echo(json.dumps(facts | outcome))
        return
    what = "Signed." if agreed else "Not signed."
    after = (
        f"The site: {visible(became.said)}"
        if became is not None
        else "It counts once the site has taken it: while `synofed serve` runs and the officer's page is open."
    )
    typer.echo(f"{what} {after}")
