"""Where a site's tables are, and the one way to read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.data.tables import reading_room
from client.data.tables.tables import Tables, read_tables
from client.site.site import Site
from common.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a site's data are and how they are read.

    Attributes:
        site: the site's folder, which holds the store and what was done in its reading room.
        data: the folder of tables and pictures.
        manifest: file name of the manifest there.
        grades: file name of the readers' grades there.
        consensus: rule that makes one grade of several.
    """

    site: Path
    data: Path
    manifest: str = "manifest.csv"
    grades: str = "grades.csv"
    consensus: str = "median"

    @classmethod
    def of(cls, site: Site) -> Sources:
        """Those that ``site.toml`` names."""
        data = site.file.data
        return cls(
            site=site.folder,
            data=site.data_folder,
            manifest=data.manifest,
            grades=data.grades,
            consensus=data.consensus,
        )

    def tables(self, settings: Settings) -> Tables:
        """The site's exams, and those that are left out.

        Raises:
            DataError: if a table cannot be used.
        """
        return read_tables(
            self.data,
            manifest=self.manifest,
            grades=self.grades,
            rule=self.consensus,
            settings=settings,
            room=reading_room.read(self.site),
        )
