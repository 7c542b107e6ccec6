"""Makes ``docs/results/performance.md`` of the JSON of ``bench.py``, ``peers/compare.py`` and ``gpu.py``.

    python benchmarks/performance.py [FOLDER] [--out docs/results/performance.md]

FOLDER (``docs/results/performance``) holds ``bench.json`` and runs as ``peers*.json``, and of a card ``gpu.json``.
What figures were before is data of this script: measured at commit ``ff862ed``, by scripts that were not kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BEFORE_COMMIT = "ff862ed"
Found = Mapping[str, Any]
Row = Sequence[object]

SIDES = {
    "plain": "plain PyTorch loop, one thread",
    "synofed": "**synofed, in process, two workers**",
    "synofed_ray": "**synofed, Ray**",
    "flower": "Flower's simulation, Ray",
    "pfl": "pfl-research, one thread",
    "nvflare": "NVFlare's simulator, two threads",
}
PEERS_BEFORE = {
    "plain": "1.00 / 1.00 / 0.85 GB / 3.1 s",
    "synofed": "1.64 / 1.15 / 1.4 GB / 5.3 s",
    "synofed_ray": "3.15 / 2.26 / 4.5 GB / 16 s",
    "flower": "2.54 / 1.79 / 3.8 GB / 12 s",
    "pfl": "1.12 / 1.13 / 0.79 GB / 3.8 s",
    "nvflare": "5.08 / 4.88 / 2.9 GB / 9 s",
}
"""CPU ratio, wall ratio, peak memory, start-up."""
START_UP_BEFORE = {
    "synofed --help": "5.5 s, 547 MB",
    "synofed simulate --help": "5.5 s, 547 MB",
    "synofed report --help": "5.5 s, 547 MB",
    "synofed site --help": "1.0 s",
    "synofed federation --help": "1.0 s",
    "synofed privacy --help": "1.8 s",
}
FEDERATION_BEFORE = {
    "federation_small": "1.17 without scoring",
    "federation_resnet18": "1.64 to 2.05 without scoring (0.85 -> 1.4 GB)",
}
WHY = """\
The difference of weights tells the same work only where steps are short: in float32 ResNet-18's first gradient moves
by 1.3 % when its pictures lie in another layout, and by 1.6 % when they change by 1e-5 (in float64 the layouts agree
to 2e-14), and each step makes that grow. `work.toml` has a learning rate of 1e-5 for that; `peers_adamw.json` had
AdamW at 1e-3, where the column decides nothing, and ran beside other work.

Where synofed is behind: a round of 45 MB is hashed, tested for finite values, spooled, journaled with fsync and
copied for each site, so that it can be resumed and proven. In a profile (two sites, two steps a visit, so that fixed
costs weigh most) SHA-256 took 5 % of the processor time, writing files 5 %, copies into messages 2 %; files were
copied three times more on the way until then, which had been a quarter of all system time. pfl-research keeps weights
in one process, sends nothing and keeps no record.
"""
HEAD = """\
# Performance

`make bench` and `make bench-peers`, then `python benchmarks/performance.py`, which wrote this page from
`docs/results/performance/*.json`. Every figure is a ratio within one run: both sides took turns on the same machine,
so what it is, and what else it did, matter less. Processor time (user and system, of all processes) feels other work
least. **Wall ratios taken beside other work are marked by the load**: how many processes wanted a core, before and
after; above the number of cores they say little. *Before* is commit `{commit}`, of another day on such a machine, by
scripts that are not kept.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS / "performance")
    parser.add_argument("--out", type=Path, default=RESULTS / "performance.md")
    given = parser.parse_args()
    given.out.write_text(page(given.folder), encoding="utf-8")


def page(folder: Path) -> str:
    """The document."""
    lines = [HEAD.format(commit=BEFORE_COMMIT)]
    bench, card = _read(folder / "bench.json"), _read(folder / "gpu.json")
    if bench:
        lines += _about("On CPU cores", bench)
        for name, section in SECTIONS.items():
            if name in bench["parts"]:
                lines += _part(bench["parts"][name], *section)
    runs = sorted(folder.glob("peers*.json"))
    for path in runs:
        peers = json.loads(path.read_text(encoding="utf-8"))
        lines += [*_about(f"Beside the peers: `{path.name}`", peers), *_peers(peers)]
    lines += [WHY] if runs else []
    if card:
        lines += _about("On a card", card)
        lines += [f"* `{name}`: {_told(part)}" for name, part in card["parts"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _read(path: Path) -> Found | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _about(title: str, result: Found) -> list[str]:
    facts = f"{result['date']}, {result['cores']} cores of {result['processor']}"
    minutes = f", {result['minutes']} minutes" if "minutes" in result else ""
    versions = f"Python {result['python']}, torch {result['torch']}"
    return [f"## {title}", "", f"`{result['command']}`: {facts}, {versions}{minutes}.", ""]


def _part(part: Found, title: str, header: Row, rows: Any) -> list[str]:
    """A heading, the command, and a table, or why there is none."""
    lines = [f"### {title}", ""]
    if "failed" in part:
        return [*lines, f"`{part['command']}`: {part['failed']}.", ""]
    load = "{} and {}".format(*part["load"])
    return [
        *lines,
        f"`{part['command']}`, commit {part['commit']}; load {load}.",
        "",
        *_table(header, rows(part["result"])),
        "",
    ]


def _table(header: Row, rows: Iterable[Row]) -> Iterator[str]:
    yield "| " + " | ".join(map(str, header)) + " |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _told(part: Found) -> str:
    return str(part["failed"]) if "failed" in part else f"`{json.dumps(part['result'])}`"


def _start_up(result: Found) -> Iterator[Row]:
    for command, cost in result["commands"].items():
        absolute = f"{cost['cpu_s']} s, {cost['peak_mb']} MB"
        yield command, cost["over_torch"], absolute, START_UP_BEFORE.get(command, "")


def _federation(before: str) -> Any:
    def rows(result: Found) -> Iterator[Row]:
        for one in result["measured"]:
            mb = one["peak_mb"]
            what = f"{result['networks']} x {result['backbone']}, {one['workers']} workers"
            yield (
                what,
                f"{one['ratio_cpu']} / {one['ratio_wall']}",
                f"{one['ratio_cpu_without_scoring']} / {one['ratio_wall_without_scoring']}",
                f"{one['cpu_s_a_round']['federated']} / {one['cpu_s_a_round']['plain_without_scoring']}",
                f"{mb['federated'] / mb['plain']:.2f} ({mb['federated']} MB)",
                result["relative_difference_of_final_weights"],
                before,
            )

    return rows


def _local(result: Found) -> Iterator[Row]:
    for case in result["cases"]:
        name = (
            f"{result['backbone']}, width {case['width']}"
            if result["backbone"] == "small"
            else result["backbone"]
        )
        yield (
            f"{name}, {len(case['images'])} pictures of {result['image_px']} px, batch {result['batch']}",
            f"{case['workers']} x {case['threads']}",
            f"{case['cpu']['ratio']} / {case['ratio']}",
            f"{case['cpu']['ratio_to_strong']} / {case['ratio_to_strong']}",
        )


def _private(result: Found) -> Iterator[Row]:
    for one in result["measured"]:
        what = f"heads, {one['hidden'] or 'no'} hidden units"
        yield (
            what,
            one["private_over_plain"],
            result["goals"]["private_over_plain"],
            one["private_over_opacus"],
            "",
        )
    network = result["network"]
    what = f"whole small network, {network['patients']} patients, {network['device']}"
    yield what, network["private_over_plain"], network["goal"], "", "not measured"


def _committee(result: Found) -> Iterator[Row]:
    for case in result["cases"]:
        faster = case["times_faster"]
        what = f"{case['networks']} x {case['backbone']}, {case['batch']} exams"
        yield (
            what,
            faster["chosen_than_plain"],
            faster["stacked_than_plain"],
            case["goal_chosen_than_plain"] or "",
        )


def _aggregation(result: Found) -> Iterator[Row]:
    for size in result["measured"]:
        yield (
            size["sites"],
            f"{size['ratio_to_numpy_add_cpu']} / {size['ratio_to_numpy_add']}",
            f"{size['increase_mb']} MB",
        )


def _multitude(result: Found) -> Iterator[Row]:
    yield result["exams"], result["ratio"], result["same_answers"]


CPU_WALL = "CPU / wall ratio"
FEDERATION = (
    "networks",
    f"{CPU_WALL}, scoring on both sides",
    f"{CPU_WALL}, plain without scoring",
    "CPU s a round: federated / plain without scoring",
    "peak memory over plain",
    "difference of weights",
    "before (CPU)",
)
LOCAL = (
    "what trains",
    "workers x threads",
    f"{CPU_WALL} to the plain loop",
    f"{CPU_WALL} to the strong loop",
)
SECTIONS: Mapping[str, tuple[str, Row, Any]] = {
    "start_up": (
        "Start-up: a command that only says how it is used, over `import torch`",
        ("command", "CPU ratio", "CPU, peak memory", "before"),
        _start_up,
    ),
    "federation_small": (
        "A federation in process over the same steps in a plain loop: the small networks of quickstart",
        FEDERATION,
        _federation(FEDERATION_BEFORE["federation_small"]),
    ),
    "federation_resnet18": (
        "A federation in process over the same steps in a plain loop: ResNet-18",
        FEDERATION,
        _federation(FEDERATION_BEFORE["federation_resnet18"]),
    ),
    "local_training_small": ("Local training alone, small network", LOCAL, _local),
    "local_training_resnet18": ("Local training alone, ResNet-18", LOCAL, _local),
    "private_step": (
        "A private step over the same step without privacy, one thread, processor time",
        ("what trains", "over plain", "goal", "over Opacus's hooks", "before"),
        _private,
    ),
    "committee": (
        "Asking a committee: times faster than each network as built, one thread",
        ("committee", "chosen", "stacked", "goal"),
        _committee,
    ),
    "aggregation": (
        "The centre's mean of 45 MB networks over numpy's `a += b` of as many bytes",
        ("sites", f"{CPU_WALL}, above 1 faster", "memory of a round"),
        _aggregation,
    ),
    "multitude": ("MULTITUDE over a loop in Python", ("exams", "times faster", "same answers"), _multitude),
}


def _peers(peers: Found) -> Iterator[str]:
    work = peers["work"]
    shape = f"{work['sites']} sites x {work['rounds']} rounds x {work['local_steps']} steps of {work['batch_size']}"
    where = f"commit {peers['commit']}; load "
    yield (
        f"{work['backbone']} at {work['image_px']} px, {shape}, FedAvg, no evaluation; {where}"
        "{} and {}.".format(*peers["load_before_and_after"])
        + " Whole process trees, imports and clean-up included; ratios to the plain loop of the same turn, medians."
        " The plain loop and pfl-research have one worker, the others two: compare processor time."
    )
    yield ""
    header = (
        *("side", "version", "CPU ratio", "wall ratio", "peak memory", "start-up", "CPU a round"),
        *("difference of weights", "turns", "before: CPU / wall / memory / start-up"),
    )
    yield from _table(header, _peer_rows(peers["sides"]))
    yield ""


def _peer_rows(sides: Mapping[str, Found]) -> Iterator[Row]:
    for name, side in sides.items():
        before = PEERS_BEFORE[name]
        if "failed" in side:
            yield SIDES[name], "", side["failed"], "", "", "", "", "", "", before
            continue
        over = side["over_plain"]
        a_round = (
            f"{over['cpu_a_round_s']} ({side['cpu_a_round_s']:.1f} s)" if "cpu_a_round_s" in side else ""
        )
        yield (
            SIDES[name],
            side["version"],
            f"{over['cpu_s']} ({side['cpu_s']:.1f} s)",
            over["wall_s"],
            f"{over['peak_mb']} ({side['peak_mb'] / 1024:.2f} GB)",
            f"{over['start_up_s']} ({side['start_up_s']:.1f} s)",
            a_round,
            side["difference_of_weights"],
            len(side["turns"]),
            before,
        )


if __name__ == "__main__":
    main()
