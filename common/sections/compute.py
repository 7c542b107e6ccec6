"""The ``[compute]`` section: where a simulation runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.sections.section import Section, Threads


class RaySettings(Section):
    """A Ray cluster, and what a site gets of it beside ``compute.threads`` CPUs."""

    address: Annotated[str, Field(pattern=r"^(auto|[A-Za-z0-9.-]+:[0-9]{1,5})$")] | None = None
    """``HOST:PORT`` of its head, or ``auto`` on one of its nodes; ``None``: this machine alone."""
    gpus: Annotated[float, Field(ge=0, le=64)] | None = None
    """Of a site, also a share of one; ``None``: one where this machine has any."""


class ComputeSettings(Section):
    """Speed only; never part of the plan."""

    devices: tuple[str, ...] = ("auto",)
    """One worker per device; ``auto``: every CUDA device, or else one CPU worker for each ``threads`` cores."""
    threads: Threads = 1
    """CPU threads of one site. The same number gives the same bits in every engine."""
    engine: Literal["in-process", "ray"] = "in-process"
    ray: RaySettings = RaySettings()
    groups_in_flight: Threads = 4
    stacked: bool = False
    """Whether a site trains networks of one shape at once; last bits depend on it. Slower on a CPU."""
