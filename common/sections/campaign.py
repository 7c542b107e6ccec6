"""The ``[campaign]`` section: what people approve."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from common.sections.section import GrowingSection


class CampaignSettings(GrowingSection):
    """What the people who approve a campaign are told about it."""

    later: ClassVar[tuple[str, ...]] = ("evaluation", "late_joining", "statistics", "cases")

    purpose: str = ""
    """What the networks are trained for."""
    recipients: tuple[str, ...] = ()
    """Who gets the trained networks."""
    evaluation: bool = False
    """Ask each site, once, for tables of how the finished ensemble grades its held-out patients. A site whose policy
    permits none takes part all the same."""
    late_joining: bool = False
    """Let the list of sites grow: who is admitted later trains from the next round after it agreed, and sites that
    train nothing may judge the ensemble, which then goes to them too."""
    statistics: bool = False
    """Ask each site, before anything is trained, how many patients it has by machine, joint, diagnosis, age and
    grade. A site whose policy permits none takes part all the same."""
    cases: bool = False
    """With ``evaluation``: ask also what each single exam behind the tables was graded as, and how surely. A site
    whose policy permits none gives its tables without."""

    @model_validator(mode="after")
    def _cases_are_of_tables(self) -> CampaignSettings:
        if self.cases and not self.evaluation:
            raise ValueError(
                "campaign.cases needs campaign.evaluation = true: it tells the exams behind its tables"
            )
        return self
