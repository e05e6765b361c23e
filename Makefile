# make demo   draws a data set, trains both networks on it, evaluates, writes a report (under ten minutes on two CPU cores)
# make test   runs the tests
# Both first set up .venv from requirements.txt (the tests: requirements-dev.txt), in the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check

# Whether .venv is whole: made from the requirements as they stand now, its Python works, and what it needs is there.
NEEDED := pip torch torchvision numpy pycocotools cv2 albumentations yaml jinja2 safetensors filelock tqdm tensorboard pytest hypothesis
WHOLE := $(RUN) -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' $(NEEDED)

.PHONY: demo test test-slow test-lowest test-newest lock bench check docs clean setup setup-dev

demo: setup
	rm -rf runs/demo
	$(RUN) tools/train_rpn.py
	$(RUN) tools/train_fastrcnn.py
	$(RUN) tools/eval_coco.py --weights runs/demo/detector.pt
	@echo
	@echo "The report is runs/demo/evaluation/report.html. This detector knows six drawn shapes and nothing else."
	@echo "To train one on images of your own, with labels in COCO, YOLO, Pascal VOC or CSV format in the folder DIR:"
	@echo "    $(RUN) tools/train.py --data DIR --minutes 30"

# pytest-xdist: one worker process per core, each with one thread (tests/conftest.py) and up to 1 GB, so at most 8. With
# `worksteal` each worker runs neighbouring files, whose fixtures are made once, and an idle one takes over half of what another has left.
ON_ALL_CORES := -n auto --maxprocesses 8 --dist worksteal

test: setup-dev
	$(RUN) -m pytest $(ON_ALL_CORES)

test-slow: setup-dev
	$(RUN) -m pytest -m slow

# The tests with the lowest versions that requirements.txt allows, in an environment of their own.
LOWEST := .venv-lowest
test-lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	sed -n 's/^\([a-z-]*\)>=\([0-9.]*\).*/\1==\2/p' requirements.txt requirements-dev.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet -r requirements.txt setuptools pytest-xdist -c $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pytest $(ON_ALL_CORES)

# The tests with the newest version of everything that requirements.txt allows, in an environment of their own.
NEWEST := .venv-newest
test-newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade -r requirements-dev.txt
	$(NEWEST)/bin/python -m pytest $(ON_ALL_CORES)

# Renews constraints.txt: the newest version of every package, direct or not, for each system and Python. `make test` then tests them.
lock: setup-dev
	$(PIP) install --quiet uv
	$(RUN) -m uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate \
	    --custom-compile-command "make lock" --output-file constraints.txt requirements-dev.txt

bench: setup-dev
	$(RUN) -m benchmarks

check: setup-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# The pages of docs/ as a site in site/. --strict: a link to a page that is not there fails.
docs: setup-dev
	$(VENV)/bin/zensical build --clean --strict

clean:
	rm -rf runs/demo data/demo

setup:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@if ! { cat requirements.txt constraints.txt | cmp -s - $(VENV)/requirements.txt && $(WHOLE) 2>/dev/null; }; then \
	    echo "setting up $(VENV): PyTorch and what else requirements.txt names; this takes some minutes once"; \
	    $(RUN) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) && \
	    $(PIP) install --quiet -r requirements.txt -c constraints.txt && $(WHOLE) && \
	    cat requirements.txt constraints.txt > $(VENV)/requirements.txt; \
	fi

setup-dev: setup
	@cat requirements-dev.txt constraints.txt | cmp -s - $(VENV)/requirements-dev.txt || { \
	    $(PIP) install --quiet -r requirements-dev.txt -c constraints.txt && \
	    cat requirements-dev.txt constraints.txt > $(VENV)/requirements-dev.txt; }
