"""A side of ``compare.py``: a plain PyTorch loop in one process, one thread.

python benchmarks/peers/with_nothing.py FOLDER OUT
"""

import torch
import work


def main() -> None:
    asked = work.asked()
    weights = asked.start()
    for server_round in range(1, asked.settings.federation.rounds + 1):
        total, count = torch.zeros_like(weights), 0
        for site in asked.sites:
            trained, exams = asked.train(site, weights, server_round)
            total.add_(trained, alpha=exams)
            count += exams
        weights = total.div_(count)
    asked.done(weights)


if __name__ == "__main__":
    main()
