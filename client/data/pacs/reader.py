"""Searches a hospital's archive (QIDO-RS) and fetches from it (WADO-RS), by dicomweb-client."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.datadict import tag_for_keyword

from client.data.pacs.archive import Archive
from client.data.pacs.read_only import ReadOnly
from client.data.pictures import dicom
from common.errors import ConfigurationError, DataError, SynofedError

WAITS_S = (1.0, 5.0, 20.0, 60.0)
"""Before each further try, once the archive has answered anything."""
CONNECT_S, SILENT_S = 10.0, 120.0
LARGEST_INSTANCE_BYTES = 1_000_000_000
PAGE = 500
MOST_FOUND = 200_000
"""Of studies, of series in one, of instances in one: whoever asks for more has forgotten a filter."""
Found = Mapping[str, object]
"""One study, series or instance as DICOM JSON."""
Page = Callable[[int], object]
"""From an offset to what is found from there."""


class Reader:
    """Searches and fetches."""

    def __init__(
        self,
        archive: Archive,
        *,
        waits_s: Sequence[float] = WAITS_S,
        largest_bytes: int = LARGEST_INSTANCE_BYTES,
    ) -> None:
        """Connect to nothing yet.

        Args:
            archive: to read from.
            waits_s: before each further try.
            largest_bytes: of an instance.
        """
        self._url = archive.url
        session = ReadOnly(archive, waits_s=waits_s, largest_bytes=largest_bytes)
        self._client = DICOMwebClient(
            archive.url, session=session, permissive_uid=True, timeout=(CONNECT_S, SILENT_S)
        )
        self._client.set_http_retry_params(retry=False)  # the session does, where an answer breaks off too
        for name in ("dicomweb_client", "retrying"):  # they would print addresses with ids, and tracebacks
            logging.getLogger(name).setLevel(logging.CRITICAL)
        dicom.quiet()

    def studies(self, filters: Mapping[str, str]) -> Iterator[Found]:
        """The studies that fit filters, keyword -> value."""
        return self._pages(
            "StudyInstanceUID",
            lambda offset: self._client.search_for_studies(
                limit=PAGE, offset=offset, search_filters=dict(filters)
            ),
        )

    def series(self, study: str, filters: Mapping[str, str]) -> Iterator[Found]:
        """The series of a study that fit filters."""
        return self._pages(
            "SeriesInstanceUID",
            lambda offset: self._client.search_for_series(
                study, limit=PAGE, offset=offset, search_filters=dict(filters)
            ),
        )

    def instances(self, study: str, series: str) -> Iterator[Found]:
        """The instances of a series."""
        return self._pages(
            "SOPInstanceUID",
            lambda offset: self._client.search_for_instances(study, series, limit=PAGE, offset=offset),
        )

    def instance(self, study: str, series: str, uid: str) -> bytes:
        """One instance as a file, in the transfer syntax in which it is stored.

        Raises:
            DataError: if the archive does not give this one; the message holds nothing of its values.
        """
        content = io.BytesIO()
        try:
            with warnings.catch_warnings(action="ignore"):  # of small rules that machines and archives break
                dataset = self._client.retrieve_instance(study, series, uid)
                given = str(dataset.SOPInstanceUID)
                dataset.save_as(content)
        except SynofedError:
            raise
        except requests.HTTPError as error:
            raise DataError(f"the archive answers {_status(error)}") from None
        except Exception as error:  # a damaged file makes the parser raise nearly anything
            raise DataError(f"the archive gives no whole DICOM file ({type(error).__name__})") from None
        if given != uid:
            raise DataError("the archive gives another instance than was asked for")
        return content.getvalue()

    def _pages(self, keyword: str, page: Page) -> Iterator[Found]:
        """Everything, page by page, each once, until a page brings nothing new: not all archives know offsets."""
        seen: set[str] = set()
        offset = 0
        while found := self._list(page, offset):
            new = {text(each, keyword): each for each in found}
            fresh = [each for uid, each in new.items() if uid not in seen]
            if not fresh:
                return
            seen |= new.keys()
            offset += len(found)
            if offset > MOST_FOUND:
                raise DataError(f"The archive finds more than {MOST_FOUND}: narrow the search")
            yield from fresh

    def _list(self, page: Page, offset: int) -> Sequence[Found]:
        try:
            found = page(offset)
        except requests.HTTPError as error:
            raise ConfigurationError(
                f"Expected DICOMweb at {self._url}, a search there is answered by {_status(error)}: look "
                f"at the address in the archive's documentation, and whether it permits to search (QIDO-RS)"
            ) from None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise ConfigurationError(
                f"Expected a list in JSON from {self._url}, got something else, perhaps a page to log in: look at "
                f"the address in the archive's documentation, often https://HOST/dicom-web"
            )
        return found


def text(found: Found, keyword: str) -> str:
    """The first value of an element as text, empty where there is none."""
    element = found.get(f"{tag_for_keyword(keyword):08X}")
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values and values[0] is not None else ""


def _status(error: requests.HTTPError) -> str:
    return str(error.response.status_code) if error.response is not None else "an error"
