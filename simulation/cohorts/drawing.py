"""Patients drawn in parallel, site by site."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Protocol, TypeVar

Progress = Callable[[int, int], None]


class OfSite(Protocol):
    """One patient to be drawn."""

    @property
    def site(self) -> str:
        """Name of the patient's site."""
        ...


Job = TypeVar("Job", bound=OfSite)
Part = TypeVar("Part")


def by_site(
    work: Sequence[Job],
    write_patient: Callable[[Job], Part],
    *,
    workers: int,
    progress: Progress | None,
) -> dict[str, list[Part]]:
    """Write all patients; site -> what each of its patients gave, in order, whatever the number of workers.

    Args:
        work: the patients; sites in order.
        write_patient: a function that another process can import.
        workers: processes; 1 makes everything in this one.
        progress: told of patients done, out of all.
    """
    parts: dict[str, list[Part]] = {}
    for done, (job, part) in enumerate(zip(work, _run(work, write_patient, workers), strict=True), start=1):
        parts.setdefault(job.site, []).append(part)
        if progress is not None:
            progress(done, len(work))
    return parts


def _run(work: Sequence[Job], write_patient: Callable[[Job], Part], workers: int) -> Iterator[Part]:
    if workers <= 1:
        yield from map(write_patient, work)
        return
    # Ctrl-C reaches all processes of a terminal: the parent alone heeds it
    heedless = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=heedless) as pool:
        try:
            yield from pool.map(write_patient, work, chunksize=2)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def site_name(index: int) -> str:
    """``site-a`` .. ``site-z``, then ``site-aa`` and so on."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"site-{letters}"
