# Targets: install, run, test, lint, docs, audit, sbom, lock, clean.  See README.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# tests start processes, which would all compile the sources anew
unexport PYTHONDONTWRITEBYTECODE
STAMP  := $(VENV)/.installed

.PHONY: install run test style types lint tests test-fast test-slow docs audit sbom lock clean
install: $(STAMP)

# every package by version and hash, the CPU build of torch among them; the lock names setuptools, which builds this one
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: install
	$(BIN)/fedmm run

style: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy
	$(BIN)/lint-imports

lint: style types

tests: install
	$(BIN)/python -m pytest

# types and import contracts beside the tests: each of them has one core for a minute
test: style
	$(MAKE) --no-print-directory --jobs 2 types tests

test-fast: install
	$(BIN)/python -m pytest -m 'not slow and not long'

test-slow: install
	$(BIN)/python -m pytest -m slow

# the documentation as a site, in site/; runs the notebooks
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# known vulnerabilities of what is locked; status 2 and a line where no advisory database is within reach
audit: install
	$(BIN)/pip-audit --require-hashes --disable-pip --progress-spinner off -f json -r requirements.lock 2>/dev/null | $(BIN)/python .ci/audit.py

# what is locked, as CycloneDX
sbom: install
	$(BIN)/cyclonedx-py requirements requirements.lock --output-format JSON --output-file sbom.json

# solve the lock file again; where wheels lie in a folder of this machine: make lock UV_FIND_LINKS=FOLDER
lock: install
	{ echo "# Every package that make install installs, by version and hash; the CPU build of torch. Made by: make lock"; \
	  echo 'torch==2.13.0+cpu' | UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip compile pyproject.toml - --extra dev \
	    --generate-hashes --python-version 3.11 --no-header --no-annotate --quiet; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .cache site sbom.json
