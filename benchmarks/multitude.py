"""Rate of MULTITUDE in RATING's case (5 models, 2 measurements of 4 grades) on one core, as JSON.

    python benchmarks/multitude.py [EXAMS]

``ratio`` is the vectorised rule over a plain Python loop in the same process.
"""

import json
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.scoring import eoss, multitude

VALID = [pair for pair in product(range(4), repeat=2) if eoss.is_valid_pair(pair)]


def loop(votes: np.ndarray) -> list[tuple[int, ...]]:
    answers = []
    for exam in votes.tolist():
        counts = [Counter(column) for column in zip(*exam, strict=True)]
        answers.append(max(VALID, key=lambda pair: counts[0][pair[0]] * counts[1][pair[1]]))
    return answers


def main() -> None:
    exams = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    votes = np.random.default_rng(0).integers(0, 4, size=(exams, 5, 2), dtype=np.int8)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        answer = multitude.decide(votes, values=(4, 4), is_valid=eoss.is_valid_pair)
        seconds.append(time.perf_counter() - start)
    few = votes[: max(1, exams // 50)]
    start = time.perf_counter()
    same = loop(few) == list(map(tuple, answer.decision[: len(few)].tolist()))
    naive = (time.perf_counter() - start) / len(few)
    rate = exams / min(seconds)
    result = {
        "exams": exams,
        "exams_per_s": round(rate),
        "loop_exams_per_s": round(1 / naive),
        "ratio": round(rate * naive, 1),
        "same_answers": same,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
