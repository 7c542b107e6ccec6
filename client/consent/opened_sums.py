"""Which sums this site has helped to open: of each network's round one, whatever its group or its run is called.

Of two sums of one round over nearly the same sites the difference is one site's vector. So a network's round is
noted here, on disk, before a share of any mask leaves, and another attempt at it is refused in every phase. No other
is opened without this site: those who have given no shares are fewer than a sum needs
(:class:`~common.secure_aggregation.terms.Terms`).

Runs are named by the centre: where people approve campaigns, an approval is worth one opening of each round over all
runs. Where the policy approves them (simulations), it is one per run. A second approval is for another run: what was
opened under the first stays closed to the run that opened it, or one site that approves again, with one that was
never asked for shares, would be enough for a second sum.

``campaigns/<plan>/opened/<round>.json``: network -> run -> attempt; ``opened-before``: under earlier approvals.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from client.files import atomic
from client.site.site import Site
from client.state import decisions
from common.errors import PolicyError
from common.secure_aggregation.terms import Context

FOLDER, BEFORE = "opened", "opened-before"


def check(site: Site, context: Context, networks: Sequence[str]) -> None:
    """Whether no other attempt at a round of some networks was opened; asked before anything is done for it.

    Raises:
        PolicyError: if one was, or what was noted cannot be read.
    """
    place = _place(site, context)
    known, before = _read(place), _read(_before(place))
    for name in networks:
        runs = known.get(name, {})
        if site.policy.approval == "automatic":
            runs = {run: attempt for run, attempt in runs.items() if run == context.run}
        runs = runs | {run: attempt for run, attempt in before.get(name, {}).items() if run == context.run}
        if set(runs.items()) - {(context.run, context.attempt)}:
            raise PolicyError(
                f"Expected a round that this site has not helped to open, got round {context.server_round} of {name} "
                f"once more: of two sums of it the difference is one site's update. Go on with the next round; a "
                f"second run of a plan has to be approved again with `synofed site campaigns approve`"
            )


def note(site: Site, context: Context, networks: Sequence[str]) -> None:
    """Note that an attempt may be opened now; what lets it be opened may leave once this has returned.

    Raises:
        PolicyError: as :func:`check`.
        StorageError: if it cannot be written; then nothing may leave.
    """
    place = _place(site, context)
    with decisions.locked(place.parent):  # groups have files of their own, networks may be the same
        check(site, context, networks)
        known = _read(place)
        for name in networks:
            known.setdefault(name, {})[context.run] = context.attempt
        atomic.write(place, json.dumps(known, sort_keys=True).encode())


def forget(site_folder: Path, plan_hash: str) -> None:
    """Begin anew: the campaign was approved again, for another run than those before.

    Raises:
        StorageError: if what was opened before cannot be kept; then it is not forgotten.
    """
    folder = decisions.folder(site_folder, plan_hash) / FOLDER
    for place in sorted(folder.glob("*.json")):
        with suppress(PolicyError):  # cannot be read any more: that is why it was approved again
            known, before = _read(place), _read(_before(place))
            merged = {name: {**before.get(name, {}), **known.get(name, {})} for name in {*before, *known}}
            atomic.write(_before(place), json.dumps(merged, sort_keys=True).encode())
    shutil.rmtree(folder, ignore_errors=True)


def _place(site: Site, context: Context) -> Path:
    return decisions.folder(site.folder, context.plan_hash) / FOLDER / f"{context.server_round}.json"


def _before(place: Path) -> Path:
    return place.parent.with_name(BEFORE) / place.name


def _read(place: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(place.read_bytes())
        return {name: {str(k): str(v) for k, v in runs.items()} for name, runs in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise PolicyError(
            f"Expected the sums that this site has helped to open in {place}, it cannot be read: approve the "
            f"campaign again"
        ) from None
