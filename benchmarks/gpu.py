"""The figures of a GPU in one go, ordered by worth, each in a process and a time box of its own.

python benchmarks/gpu.py runs/gpu.json [--device cuda] [--minutes 8] [--only PART ...]
python benchmarks/gpu.py OUT --device cpu --dry         # every part in small, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from shared import parts
from shared.parts import Part

RESNET = ("--backbone", "resnet18", "--image-px", "224", "--batch", "64")


def _own(name: str, seconds: int) -> Part:
    full = ("-", name)
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
    Part(
        name="private_network",
        script="private_step.py",
        full=("--only", "network", "--repeats", "5"),
        small=("--only", "network", "--patients", "12", "--repeats", "1"),
        seconds=60,
    ),
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
    if sys.argv[1:2] == ["-"]:
        part = argparse.ArgumentParser()
        part.add_argument("name", choices=OWN)
        part.add_argument("--device", default="cuda")
        part.add_argument("--dry", action="store_true")
        asked = part.parse_args(sys.argv[2:])
        print(json.dumps(OWN[asked.name](torch.device(asked.device), asked.dry)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts.add_arguments(parser, PARTS, minutes=8)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    parts.run(PARTS, given, arguments=("--device", given.device))


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
            taken = _synchronised(device, partial(module, pictures), 5)
            found[f"{at_once} a pass"] = at_once / taken
    return found


OWN: Mapping[str, Callable[[torch.device, bool], Mapping[str, object]]] = {
    "machine": machine,
    "determinism": determinism,
    "features": features,
    "heatmaps": heatmaps,
}

if __name__ == "__main__":
    main()
