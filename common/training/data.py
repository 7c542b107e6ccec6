"""The exams of one site as tensors, the form in which training and inference read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float32, Int, UInt8
from torch import Tensor

from common.exam import MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamTensors:
    """All usable exams of a site.

    Attributes:
        images: image name -> ``uint8 (exams, channels, side, side)``, of a moving picture
            ``(exams, frames, channels, side, side)``. Channels: grey 1; doppler 2 (luminance,
            flow mask 0 or 255); colour 3. The region of interest fills the centre; around it lies a margin of
            ``imaging.roi.MARGIN`` of the ROI's side, so that a shifted or enlarged ROI can be cut from it:
            ``side == imaging.roi.stored_px(image_px)``. The tensors may be memory-mapped: never write to them.
        grades: measurement -> ``int8 (exams,)``, ``MISSING`` where not graded.
        numbers: name -> ``float32 (exams,)``, share of the number's range, NaN where not known.
        fold: ``int8 (exams,)``, 0 .. folds - 1 for training exams, ``MISSING`` for held-out (test) exams.
        patient: ``int32 (exams,)``, index of the patient within the site.
    """

    images: Mapping[str, UInt8[Tensor, "exams ... channels side side"]]
    grades: Mapping[str, Int[Tensor, " exams"]]
    fold: Int[Tensor, " exams"]
    patient: Int[Tensor, " exams"]
    numbers: Mapping[str, Float32[Tensor, " exams"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.fold)

    @property
    def graded(self) -> Bool[Tensor, " exams"]:
        """Whether some measurement has a grade, or a number is known; only puzzles learn from an exam without any."""
        graded = [grades != MISSING for grades in self.grades.values()]
        return torch.stack([*graded, *(~values.isnan() for values in self.numbers.values())]).any(dim=0)
