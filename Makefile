PYTHON ?= python3
BIN := .venv/bin
# what is imported is compiled once, not in each process
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install quickstart gallery test test-slow test-lowest fuzz check style clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# pip would compile on one core
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -e ".[dev]"
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # some packages carry files that are no Python
	touch $@

install: .venv/.installed  ## a virtual environment in .venv with the package and its development tools

quickstart: install  ## train, save, reload and show small models, and the default one on real faces
	rm -rf outputs/quickstart
	$(BIN)/hfembed train faces --config quickstart --output_dir outputs/quickstart/faces
	$(BIN)/python scripts/show_face_embedder.py outputs/quickstart/faces
	$(BIN)/hfembed train autoencoder --config autoencoder_quickstart \
		--output_dir outputs/quickstart/autoencoder
	$(BIN)/python scripts/show_autoencoder.py outputs/quickstart/autoencoder
	$(BIN)/hfembed train words --config word2vec_quickstart --output_dir outputs/quickstart/words \
		--corpus "$$($(BIN)/python -c 'from gensim.test.utils import datapath; print(datapath("lee_background.cor"))')"
	$(BIN)/python scripts/show_word_vectors.py outputs/quickstart/words
	$(BIN)/python scripts/show_faces.py outputs/quickstart/real_faces

gallery: quickstart  ## draw the pictures of docs/gallery.md
	cd outputs/quickstart/real_faces && $(CURDIR)/$(BIN)/hfembed explain a.jpg photos/eileen_turned.jpg explain.png
	$(BIN)/hfembed map outputs/quickstart/words police fire israeli palestinian cricket test \
		--output outputs/quickstart/words/map.png
	$(BIN)/python scripts/draw_gallery.py outputs/quickstart docs/pictures

# one thread per worker, as torch's threads spin; one worker more than two cores, as tests wait for processes
test: install  ## the default tests: offline, no research data needed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal --durations 40 --durations-min 5

test-slow: install  ## the long tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m ""

test-lowest:  ## the default tests with the lowest versions that pyproject.toml allows; as often as a bound changes
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --index-strategy unsafe-best-match \
		--resolution lowest-direct -e ".[dev]"
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist worksteal

fuzz: install  ## mutated inputs, with new seeds, until you stop it (FUZZ_SECONDS=600 for ten minutes)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-1000000} $(BIN)/python -m pytest -q -s tests/fuzz

check: install  ## what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy hfembed

style: install  ## format, and fix what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest outputs build *.egg-info
