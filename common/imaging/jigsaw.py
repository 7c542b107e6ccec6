"""Jigsaw puzzles: an image cut into three rows of three tiles, which are permuted.

Noroozi and Favaro 2016 (doi 10.1007/978-3-319-46466-4_5); sizes as in RATING's stage 1: an image of 225 px, cells
of 75, tiles of 64 at a random place of each cell, so that edges do not tell which tiles touch.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from common.imaging.transfer import sent
from common.sections.methods import JigsawSettings

SIDE = 3
SEED = 0
"""Of the first permutation and of the order in which equals are taken: sites and centre have the same set."""


@lru_cache(maxsize=8)
def permutations(count: int) -> Int64[Tensor, "count 9"]:
    """A set of permutations far apart in Hamming distance, chosen greedily.

    Starting from a random one, the next is always one whose smallest distance to those chosen is largest, and
    among these the one whose distances add up to the most (Noroozi and Favaro 2016, algorithm 1, which leaves
    ties open).
    """
    every = np.array(list(itertools.permutations(range(SIDE * SIDE))), dtype=np.uint8)
    np.random.default_rng(SEED).shuffle(every)
    places = np.ascontiguousarray(every.T)  # place by place, compared along memory
    nearest = np.full(len(every), SIDE * SIDE, dtype=np.uint8)
    total = np.zeros(len(every), dtype=np.int32)
    chosen = [0]
    while len(chosen) < count:
        distance = _hamming(places, every[chosen[-1]])
        np.minimum(nearest, distance, out=nearest)
        total += distance
        farthest = np.flatnonzero(nearest == nearest.max())
        chosen.append(int(farthest[total[farthest].argmax()]))
    return torch.from_numpy(every[chosen].astype(np.int64))


def _hamming(places: NDArray[np.uint8], one: NDArray[np.uint8]) -> NDArray[np.uint8]:
    distance = np.zeros(places.shape[1], dtype=np.uint8)
    for place, tile in zip(places, one, strict=True):
        distance += place != tile
    return distance


def draw_offsets(n: int, settings: JigsawSettings, generator: torch.Generator) -> Int64[Tensor, "n 9 2"]:
    """Where in its cell each tile is cut: row and column, uniformly."""
    free = settings.image_px // SIDE - settings.tile_px
    return torch.randint(0, free + 1, (n, SIDE * SIDE, 2), generator=generator)


def central_offsets(n: int, settings: JigsawSettings) -> Int64[Tensor, "n 9 2"]:
    """Every tile from the middle of its cell."""
    free = settings.image_px // SIDE - settings.tile_px
    return torch.full((n, SIDE * SIDE, 2), free // 2)


def tiles(
    pictures: Float[Tensor, "n c px px"],
    settings: JigsawSettings,
    *,
    offsets: Int[Tensor, "n 9 2"],
    order: Int[Tensor, "n 9"],
) -> Float[Tensor, "n 9 c t t"]:
    """Cut tiles and put them in an order.

    Args:
        pictures: of any size; resized to ``settings.image_px``.
        settings: sizes.
        offsets: from :func:`draw_offsets`.
        order: tile ``order[i, k]`` of picture i comes at place k.

    Returns:
        Tiles, each of mean 0 and standard deviation 1: else a tile's brightness, which falls with depth, would
        tell its place (Noroozi and Favaro 2016).
    """
    resized = F.interpolate(
        pictures, size=(settings.image_px, settings.image_px), mode="bilinear", align_corners=False
    )
    place = torch.arange(SIDE * SIDE)
    cells = torch.stack([place // SIDE, place % SIDE], dim=1) * (settings.image_px // SIDE)
    corner = sent(torch.gather(cells + offsets, 1, order[:, :, None].expand(-1, -1, 2)), resized.device)
    inside = torch.arange(settings.tile_px, device=resized.device)
    rows = (corner[:, :, :1] + inside)[:, :, :, None]
    columns = (corner[:, :, 1:] + inside)[:, :, None, :]
    picture = torch.arange(len(pictures), device=resized.device)[:, None, None, None]
    cut = resized.permute(0, 2, 3, 1)[picture, rows, columns]  # channels stay last, as networks like it
    deviation, mean = torch.std_mean(cut, dim=(2, 3, 4), keepdim=True)
    return ((cut - mean) / (deviation + 1e-5)).permute(0, 1, 4, 2, 3)
