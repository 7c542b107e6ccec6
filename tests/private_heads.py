"""Small private cohorts: patients with images, heads on their features, all seeded; and entropy that repeats."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from common.privacy.mechanism.heads import Heads, HeadShape, initial_weights, patient_rows

PATIENTS, IMAGES, VIEWS, FEATURES = 24, 4, 2, 12


def entropy(*label: object) -> bytes:
    """32 bytes that a test gets again in its next run. The product takes them from the operating system."""
    return hashlib.sha256(repr(label).encode()).digest()


def cohort(
    seed: int = 0,
    *,
    patients: int = PATIENTS,
    without: int | None = None,
    scale: float = 1.0,
    hidden: tuple[int | None, ...] = (None, 5),
    spoilt: int | None = None,
    class_weights: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0),
    moves: int = 0,
) -> list[Heads]:
    """Heads over one cohort, each with features and grades of its own: two linear ones and one with a hidden layer.

    Args:
        seed: of everything.
        patients: how many.
        without: a patient who is left out, all else equal.
        scale: of the features; large ones are clipped.
        hidden: two heads for each linear one, one for each width of a hidden layer.
        spoilt: a patient with a feature that is nan.
        class_weights: of the loss.
        moves: of the norms behind the linear heads.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = []
    for width in hidden:
        stacked = 1 if width else 2
        exams = patients * (IMAGES + 1)
        patient = torch.arange(patients).repeat_interleave(IMAGES + 1)
        present = torch.rand(exams, generator=generator) < 0.8
        shape = HeadShape(features=FEATURES, hidden=width, moves=0 if width else moves)
        features = scale * torch.randn(stacked, exams, VIEWS, shape.read, generator=generator)
        grades = torch.randint(-1, len(class_weights), (stacked, exams), generator=generator)
        if spoilt is not None:
            features[0, patient == spoilt, 0, -1] = torch.nan
        if without is not None:
            present &= patient != without
            patient = patient - (patient > without).long()
        heads.append(
            Heads(
                shape=shape,
                rows=patient_rows(
                    features[:, present],
                    grades[:, present],
                    patient[present],
                    patients=patients - (without is not None),
                    images=IMAGES,
                ),
                class_weights=torch.tensor(class_weights).expand(stacked, -1),
            )
        )
    return heads


def start(heads: list[Heads], seed: int = 1) -> Tensor:
    """Start weights of all heads, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([initial_weights(some.shape, generator) for some in heads for _ in some.class_weights])
