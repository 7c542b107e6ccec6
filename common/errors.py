"""The errors of synofed, one tree.

::

    SynofedError                 exit code 1
    ├── ConfigurationError       3   a setting is unknown, missing or out of range
    ├── DataError                4   a site's folder, table or image cannot be used
    │   ├── ChangedDataError     4   ... or holds other data than the run began with
    │   └── StorageError         4   ... or what has to be kept cannot be written
    ├── PolicyError              5   a site does not permit what was asked
    │   ├── UnapprovedError      5   ... or has not approved the campaign yet
    │   ├── PausedError          5   ... or has paused it
    │   ├── HoursError           5   ... or not at this hour
    │   └── VersionError         5   the centre runs another version
    ├── BudgetError              6   a patient's privacy budget is spent
    ├── SubsetError              7   the campaign ended without some of its sites
    ├── VerificationError        8   a signature, hash or chain does not fit
    │   └── BehindError          8   ... or a site was put back to an older copy, and nobody has settled it
    ├── ConnectionLostError      9   the other side cannot be reached
    ├── UpdateError              1   an update is malformed, non-finite or of another shape
    ├── SiteStateError           1   a site lost what it keeps from round to round
    ├── BusyError                1   another process works for this site, or writes this run
    ├── MemoryLimitError         1   a site's device has too little memory for what was asked
    └── CampaignError            1   a campaign cannot go on

A message says what was expected, what came, and what to do. What a client raises is reduced to ``code``
before it leaves the site: the text stays in the site's own log.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class SynofedError(Exception):
    """Anything that synofed refuses or cannot do.

    Attributes:
        exit_code: what the command line exits with.
        code: the fixed word that may leave a site in place of the text.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "failed"


class ConfigurationError(SynofedError):
    """A setting is unknown, missing or out of range."""

    exit_code = 3
    code = "configuration"


class DataError(SynofedError):
    """A site's folder, table or image cannot be used."""

    exit_code = 4
    code = "data"


class ChangedDataError(DataError):
    """A site's data are not those that the run began with."""

    code = "changed"


class StorageError(DataError):
    """What has to be kept cannot be written; the disk may be full."""

    code = "storage"


class PolicyError(SynofedError):
    """A site does not permit what was asked."""

    exit_code = 5
    code = "policy"


class UnapprovedError(PolicyError):
    """Nobody at the site has approved the campaign yet."""

    code = "unapproved"


class PausedError(PolicyError):
    """The site has paused the campaign."""

    code = "paused"


class HoursError(PolicyError):
    """The site does not train at this hour."""

    code = "hours"


class VersionError(PolicyError):
    """The centre runs another version than the site."""

    code = "version"


class BudgetError(SynofedError):
    """A patient's privacy budget is spent."""

    exit_code = 6
    code = "budget"


class SubsetError(SynofedError):
    """The campaign ended, but without some of its sites."""

    exit_code = 7
    code = "subset"


class VerificationError(SynofedError):
    """A signature, hash or chain does not fit."""

    exit_code = 8
    code = "verification"


class BehindError(VerificationError):
    """A site's log and ledger were put back to an older copy, which nobody has settled yet."""

    code = "behind"


class ConnectionLostError(SynofedError):
    """The other side cannot be reached."""

    exit_code = 9
    code = "connection"


class UpdateError(SynofedError):
    """An update is malformed, non-finite or of another shape."""

    code = "update"


class SiteStateError(SynofedError):
    """A site lost what it keeps from round to round, or cannot read it."""

    code = "state"


class BusyError(SynofedError):
    """Another process works for this site, or writes this run."""

    code = "busy"


class MemoryLimitError(SynofedError):
    """A site's device has too little memory for what was asked."""

    code = "memory"


class CampaignError(SynofedError):
    """A campaign cannot go on."""

    code = "campaign"


_ADVICE = {
    errno.ENOSPC: "free some space there, then run the same command again",
    errno.EDQUOT: "free some of this account's space there, then run the same command again",
    errno.EFBIG: "the system permits no larger file: raise the limit (ulimit -f), or name a place on another disk",
    errno.EROFS: "nothing can be written there: name another place",
    errno.EACCES: "permit it to this account, or name another place",
    errno.EPERM: "permit it to this account, or name another place",
    errno.ENOTDIR: "a file stands where a folder was expected: move it away, or name another place",
    errno.EISDIR: "a folder stands where a file was expected: name a file",
    errno.EEXIST: "move away what stands there, or name another place",
    errno.ENOTEMPTY: "move away what stands there, or name another place",
    errno.ENOENT: "check the path: something on it is not there",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "links there lead in a circle: name another place",
    errno.EXDEV: "the two lie on different disks: name places on one",
    errno.EIO: "the disk or its connection fails: look at the system's log",
    errno.ESTALE: "the network folder is gone: mount it again",
    errno.EMFILE: "too many files are open at once: raise the limit (ulimit -n)",
    errno.ENOMEM: "the machine has too little memory free: end other programs",
    errno.EADDRINUSE: "another program has that port: end it, or choose another port",
}


def explained(error: OSError) -> str:
    """What the system refused, on one line: what, where, and what to do.

    Args:
        error: of a file, a folder or a socket, wherever it came from.
    """
    places = [f"{place}" for place in (error.filename, error.filename2) if place is not None]
    return " ".join(f"{' -> '.join(places)}{': ' if places else ''}{refusal(error)}".split())


def refusal(error: OSError) -> str:
    """The same for a message that has said where: what the system refused, and what to do."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {_ADVICE.get(error.errno or 0, 'look at it, then run the same command again')}"
