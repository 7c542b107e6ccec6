"""A drafted mapping file: what was proposed, and in comments what is to be checked and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from client.data.ingest.mapping import USUAL, Part
from client.data.ingest.proposal import Origin, Proposed, said_by, text_of
from client.data.ingest.samples import Sample


def toml(proposed: Sequence[Proposed], samples: Sequence[Sample], *, files: int) -> str:
    """The text of a mapping file, with what is to be checked and what is missing marked in comments.

    Args:
        proposed: for each fact.
        samples: that it was made from.
        files: pictures in the whole export.
    """
    lines = [
        f"# A draft from the names and tags of {len(samples)} of {files} files, to be read and mended by a person.",
        "#   CHECK  found, but it may mean something else",
        "#   GAP    nothing tells; without your line it stays unknown",
        "# mapping.example.toml beside it explains every line. Then:",
        "#   synofed data ingest EXPORT --dry-run --mapping THIS_FILE",
        "#   synofed data ingest EXPORT --out DATA --mapping THIS_FILE",
        "",
        "[facts]",
    ]
    for each in proposed:
        mark = {"found": "", "check": "CHECK ", "gap": "GAP "}[each.state]
        lines.append(f"# {mark}{each.fact}: {each.why}")
        if each.sources:
            lines.append(f"{each.fact} = [{', '.join(map(written, each.sources))}]")
        lines += [f"# {each.fact} = [{written(hint)}]" for hint in each.hints]
    return "\n".join([*lines, *_unknown_words(samples), *_screens(samples), *_GRADES]) + "\n"


def written(source: Origin) -> str:
    """A source as TOML has it."""
    if isinstance(source, Part):
        return f"{{of = \"{source.of}\", pattern = '{source.pattern}'}}"
    return f'"{source}"'


_GRADES = (
    "",
    "# GAP grades: names and tags tell of none.",
    "# [grades]",
    '# path = "grades.csv"',
    '# exam = {patient_id = "COLUMN", visit = "COLUMN", side = "COLUMN", joint = "COLUMN", digit = "COLUMN"}',
    '# reader = "COLUMN"',
    '# columns = {hypertrophy = "COLUMN", vascularity = "COLUMN"}',
)


def _unknown_words(samples: Sequence[Sample]) -> Iterator[str]:
    """Codes of a side that are in no list of ours."""
    words: Counter[str] = Counter()
    for source in (each for each in USUAL["side"] if isinstance(each, str)):
        texts = (text_of(sample, source) for sample in samples)
        words.update(
            text
            for text in texts
            if text and said_by("side", text) is None and "'" not in text and text.isprintable()
        )
    if words:
        yield from ("", "# GAP side: codes that are not known; say what they mean.", "# [values.side]")
        yield from (f"# '{word}' = \"left\"   # in {count} files" for word, count in sorted(words.items()))


def _screens(samples: Sequence[Sample]) -> Iterator[str]:
    """Sizes of screens of which no tag says where the scan is."""
    sizes = Counter(sample.size for sample in samples if not sample.regions and sample.size is not None)
    if not sizes:
        return
    yield from (
        "",
        f"# GAP devices: of {sizes.total()} files no tag says which part of the screen is the scan, so that all",
        "# of it is kept. Name the part: x, y, width, height.",
    )
    for (width, height), count in sizes.most_common(5):
        yield from (
            f"# [[devices]]   # {count} files",
            '# name = "NAME"',
            f"# size = [{width}, {height}]",
            f"# panels = [{{box = [0, 0, {width}, {height}]}}]",
        )
