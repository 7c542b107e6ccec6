"""The figures of a GPU in one go, ordered by worth, each in a process and a time box of its own.

    python benchmarks/gpu.py OUT [--device cuda] [--minutes 8]
    python benchmarks/gpu.py OUT --device cpu --dry         # every part in small, to see that it runs

``OUT/<part>.json`` is written as soon as a part ends, ``OUT/summary.json`` after each: a machine that is taken away
in the middle leaves what was measured. A part that does not end within its box, or fails, says so there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

HERE = Path(__file__).resolve().parent
RESNET = ("--backbone", "resnet18", "--image-px", "224", "--batch", "64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One script, or one function of this one.

    Attributes:
        name: of its result.
        script: beside this one.
        full: its arguments.
        small: those of a dry run.
        seconds: its box.
    """

    name: str
    script: str
    full: tuple[str, ...]
    small: tuple[str, ...]
    seconds: int


def _own(name: str, seconds: int) -> Part:
    full = ("-", "--part", name)
    return Part(name=name, script="gpu.py", full=full, small=(*full, "--dry"), seconds=seconds)


PARTS = (
    _own("machine", 30),
    Part(
        name="local_training",
        script="local_training.py",
        full=("20", "3", *RESNET),
        small=("2", "1", "--backbone", "small", "--image-px", "64", "--batch", "8"),
        seconds=90,
    ),
    _own("determinism", 45),
    Part(
        name="committee",
        script="committee.py",
        full=(
            *("--threads", "1", "--backbones", "resnet18", "--batches", "1", "32"),
            *("--models", "5", "--replicas", "2", "--repeats", "5"),
        ),
        small=(
            *("--threads", "1", "--backbones", "small", "--batches", "1"),
            *("--models", "1", "--replicas", "1", "--repeats", "1"),
        ),
        seconds=120,
    ),
    _own("private_network", 60),
    _own("features", 45),
    _own("heatmaps", 45),
    Part(
        name="local_training_small",
        script="local_training.py",
        full=("20", "3"),
        small=("2", "1", "--batch", "8"),
        seconds=45,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--part", choices=OWN, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(OWN[given.part](torch.device(given.device), given.dry)))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    end, summary = time.monotonic() + 60 * given.minutes, {}
    for part in PARTS:
        left = min(part.seconds, end - time.monotonic())
        summary[part.name] = _run(part, given.out, given.device, dry=given.dry, seconds=left)
        print(part.name, summary[part.name], flush=True)
        (given.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _run(part: Part, out: Path, device: str, *, dry: bool, seconds: float) -> str:
    """Its result's place, or what became of it."""
    if seconds < 1:
        return "no time left"
    command = [part.script, *(part.small if dry else part.full), "--device", device]
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} s"
    if done.returncode:
        (out / f"{part.name}.err").write_text(done.stderr, encoding="utf-8")
        return f"failed: {done.stderr.strip().splitlines()[-1:]}"
    (out / f"{part.name}.json").write_text(done.stdout, encoding="utf-8")
    return f"{part.name}.json, {time.monotonic() - started:.0f} s"


def _synchronised(device: torch.device, work: Callable[[], object], repeats: int) -> float:
    """The shortest seconds of a piece of work, once warm."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def machine(device: torch.device, dry: bool) -> Mapping[str, object]:
    """What the card does at best: a bf16 product, a copy on the card, copies to it."""
    size, repeats = (256, 2) if dry else (8192, 10)
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    big = torch.empty((1 if dry else 1024) * 2**20, dtype=torch.uint8, device=device)
    host = torch.empty(big.numel() // 4, dtype=torch.uint8)
    product = _synchronised(device, lambda: a @ a, repeats)
    copied = _synchronised(device, big.clone, repeats)
    found: dict[str, object] = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "bf16_tflops": 2 * size**3 / product / 1e12,
        "copy_tb_per_s": 2 * big.numel() / copied / 1e12,
        "to_device_gb_per_s": host.numel() / _synchronised(device, lambda: host.to(device), repeats) / 1e9,
    }
    if device.type == "cuda":
        pinned = host.pin_memory()
        to_card = _synchronised(device, lambda: pinned.to(device, non_blocking=True), repeats)
        found["to_device_pinned_gb_per_s"] = pinned.numel() / to_card / 1e9
    return found


def determinism(device: torch.device, dry: bool) -> Mapping[str, object]:
    """Whether training and scoring give equal bits three times, small and ResNet-18."""
    import local_training  # noqa: PLC0415 (beside this script)

    from common.networks import build  # noqa: PLC0415
    from common.training.local import score, train_network  # noqa: PLC0415

    found = {}
    for backbone, px in (("small", 64),) if dry else (("small", 64), ("resnet18", 224)):
        given = argparse.Namespace(batch=16, backbone=backbone, image_px=px, device=str(device))
        local = local_training.settings(("gs", "doppler"), 8, 3, given)
        data = local_training.exams(60, px)
        weights = build.initial_weights(local.spec, local.network, seed=0)
        updates = [train_network(weights, {}, data, local, 1, 7)[0].update for _ in range(3)]
        scores = [score(weights, data, torch.arange(40), local) for _ in range(3)]
        found[backbone] = {
            "training": all(torch.equal(updates[0], other) for other in updates),
            "scoring": all(torch.equal(scores[0], other) for other in scores),
        }
    return found


def _fusion(device: torch.device, dry: bool) -> torch.nn.Module:
    import committee  # noqa: PLC0415 (beside this script)

    backbone = "small" if dry else "resnet18"
    return committee.members(committee.SIZES[backbone], 1, 1)[0].network.to(device).eval()


def _pictures(device: torch.device, dry: bool, count: int) -> list[torch.Tensor]:
    px = 64 if dry else 224
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 3, px, px, generator=generator).to(device) for _ in range(2)]


def heatmaps(device: torch.device, dry: bool) -> Mapping[str, object]:
    """Seconds of one exam's heatmaps by one network, RATING's 50 steps and 8 copies, by batch."""
    from common.ensemble import heatmaps as explained  # noqa: PLC0415

    module, found = _fusion(device, dry), {}
    for batch in (8,) if dry else (64, 400):
        settings = explained.HeatmapSettings(steps=2 if dry else 50, batch=batch)
        generator = torch.Generator().manual_seed(0)

        def work(
            settings: explained.HeatmapSettings = settings, chance: torch.Generator = generator
        ) -> object:
            return explained.heatmaps(
                [module], _pictures(device, dry, 1), settings=settings, generator=chance
            )

        found[f"batch {batch}"] = _synchronised(device, work, 1)
    return found


def features(device: torch.device, dry: bool) -> Mapping[str, object]:
    """Exams per second through a frozen fusion network: three pictures a pass, as private sites do, and 128."""
    module, found = _fusion(device, dry), {}
    with torch.inference_mode():
        for at_once in (3, 8) if dry else (3, 128):
            pictures = _pictures(device, dry, at_once)
            taken = _synchronised(device, lambda pictures=pictures: module(pictures), 5)
            found[f"{at_once} a pass"] = at_once / taken
    return found


def private_network(device: torch.device, dry: bool) -> Mapping[str, object]:
    """Seconds of a private step of a whole network over those of a plain step of the same exams."""
    import local_training  # noqa: PLC0415 (beside this script)

    from common.networks import build  # noqa: PLC0415
    from common.privacy.mechanism.network_training import PrivateTraining  # noqa: PLC0415
    from common.privacy.mechanism.patient_step import StepSettings  # noqa: PLC0415
    from common.training.local import train_network  # noqa: PLC0415

    given = argparse.Namespace(batch=8 if dry else 64, backbone="small", image_px=64, device=str(device))
    local = local_training.settings(("doppler",), 8, 1, given)
    everyone = local.training.model_copy(update={"sampling": "all"})
    local = type(local)(**{name: getattr(local, name) for name in local.__slots__} | {"training": everyone})
    data = local_training.exams(12 if dry else 150, 64)
    weights = build.initial_weights(local.spec, local.network, seed=0)
    step = StepSettings(max_grad_norm=1.0, noise_multiplier=1.0, sample_rate=1.0, patients=len(data))
    training = PrivateTraining(
        weights, data, local, step, images=1, class_weights=torch.ones(2), server_round=1, seed=0
    )
    private = _synchronised(device, lambda: training.step(entropy=bytes(range(32))), 2)
    plain = _synchronised(device, lambda: train_network(weights, {}, data, local, 1, 7), 2)
    return {"private_s": private, "plain_s": plain, "ratio": private / plain, "patients": len(data)}


OWN: Mapping[str, Callable[[torch.device, bool], Mapping[str, object]]] = {
    "machine": machine,
    "determinism": determinism,
    "private_network": private_network,
    "features": features,
    "heatmaps": heatmaps,
}

if __name__ == "__main__":
    main()
