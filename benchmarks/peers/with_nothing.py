"""A side of ``compare.py``: a plain PyTorch loop in one process, one thread.

python benchmarks/peers/with_nothing.py FOLDER OUT
"""

import work
from shared import plain_loop


def main() -> None:
    asked = work.asked()
    sites = {name: asked.exams(name) for name in asked.sites}
    weights = plain_loop.train(sites, asked.settings, workers=1, scoring=False, observer=asked.began)
    asked.done(weights[asked.spec.name])


if __name__ == "__main__":
    main()
