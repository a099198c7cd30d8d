PYTHON ?= python3
BIN := .venv/bin

.PHONY: install train test test-slow check docs weights page page-bundle test-page test-serve test-browser test-pacs test-peers test-slurm bench gpu peers fuzz soak lock clean

train: install
	$(BIN)/python -m pneumojax.main --config=m1

# Three workers at once, since tests wait for processes that they start. The modules of those are compiled once, whatever
# the environment says. Tests that take long for what they add are left to `test-slow`.
test: install
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadgroup --durations=60 -m "not slow" $(TESTS)

test-slow: install
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadgroup -m slow

# Style, types, the direction of imports, and the documents.
check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --threads 2
	$(BIN)/lint-imports
	$(BIN)/python -m studies.render --check
	$(BIN)/mkdocs build --strict --quiet --site-dir .venv/site

# The shipped weights: M1 by the recommended recipe on children and adults, in 20 minutes or so, and its model card. The
# folders are those that the data's own pages give, the adults with a films.csv: see docs/training.md.
CHILDREN ?= children
ADULTS ?= adults
weights: install
	$(BIN)/python -m pneumojax.main --config=m1 --workdir=runs/weights --data=children=$(CHILDREN),adults=$(ADULTS) \
	  --config.data.trust=text=0 --config.data.test_fraction=0.1 \
	  --config.evaluation.corruptions
	$(BIN)/python -m pneumojax.main --mode=audit --workdir=runs/weights --data=children=$(CHILDREN),adults=$(ADULTS) || test $$? = 1
	$(BIN)/python -m pneumojax.main --mode=explain --workdir=runs/weights --config.explanation.checks
	$(BIN)/python -m pneumojax.main --mode=export --workdir=runs/weights --config.export.formats=safetensors \
	  --config.export.output=pneumojax/weights/m1 --config.export.about=configs/weights.toml

# The shipped weights as a page that computes in a browser: build/page/try.html. It needs no Node.
page: install
	$(BIN)/python -m pneumojax.main --mode=export --model=m1 --data=phantom --config.export.formats=html \
	  --config.export.output=build/page

# What such pages are made of, from page/ and the locked npm packages into pneumojax/export/page. Needs Node 20 and npm.
page-bundle: page/node_modules
	cd page && npm run build

page/node_modules: page/package-lock.json
	cd page && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

# The page in headless Chromium and Firefox ESR, with pictures in build/pictures: needs Debian's chromium, firefox-esr,
# nodejs and npm.
test-page: install page/node_modules
	$(BIN)/python -m pytest -s tests/export/test_page_in_browsers.py

# The server by requests that its OpenAPI document generates, and by broken ones. Installs schemathesis.
test-serve: install
	$(BIN)/python -m pip install --quiet schemathesis
	$(BIN)/python -m pytest -s tests/serving

# The documents in a browser, at http://127.0.0.1:8000.
docs: install
	$(BIN)/mkdocs serve

# Breaks 1,000 files of each kind that users give, in a minute or two, and 500 times a file of a workdir, in half an hour;
# different ones each time. FUZZ=100 breaks fewer.
# Where ../shared/data has real radiographs, some of them are among the files.
fuzz: install
	FUZZ=$(or $(FUZZ),1000) $(BIN)/python -m pytest -s tests/data/test_fuzz.py tests/workflows/test_damage.py

# Kills runs at random moments, fifty times or KILLS, and compares each with an undisturbed run; and stops or kills
# processes of jobs of several: seven to twenty minutes.
soak: install
	KILLS=$(or $(KILLS),50) XLA_FLAGS= $(BIN)/python -m pytest -s tests/workflows/test_kill.py tests/runtime/test_distributed.py

# A job of launch/slurm.sbatch on a SLURM of this machine alone: as root, with Debian's slurm-wlm and munge.
test-slurm: install
	SLURM=here $(BIN)/python -m pytest -s tests/launch/test_slurm.py

install: .venv/installed .venv/kernels

# The locked versions, then the package itself: no version is chosen at install time. Modules are compiled on all cores,
# where pip would use one.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --requirement requirements.lock
	$(BIN)/python -m compileall -qq -j 0 .venv/lib
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

# The CPU kernels, where there is a compiler. Training works without them.
%/kernels: %/installed $(wildcard pneumojax/models/kernels/*.cc pneumojax/models/kernels/*.h)
	-$*/bin/python -m pneumojax.models.kernels.build
	touch $@

# The report in headless Chromium: needs Debian's chromium and chromium-driver, and installs selenium.
test-browser: install
	$(BIN)/python -m pip install --quiet selenium
	$(BIN)/python -m pytest tests/reports/test_report_in_a_browser.py

# --mode=pacs beside Orthanc, DCMTK, dicom3tools and OHIF on loopback, as root on Debian. Pictures of the viewer and the
# service's lines go to the folder PACS.
PACS ?= .venv/pacs
test-pacs: install $(PACS)/package/dist
	apt-get install --yes orthanc orthanc-dicomweb dcmtk dicom3tools nginx-light chromium chromium-driver
	$(BIN)/python -m pip install --quiet selenium
	PACS=$(abspath $(PACS)) $(BIN)/python -m pytest -s tests/pacs

# The viewer as its makers built it, without the packages that it was built from.
$(PACS)/package/dist:
	mkdir -p $(PACS)
	cd $(PACS) && npm pack @ohif/app@3 && tar -xzf ohif-app-*.tgz

# Needs uv. Locks the newest versions that agree with each other, for Python 3.11 and for 3.12 and later.
lock:
	uv pip compile --universal --python-version 3.11 --fork-strategy requires-python --extra test --extra docs \
	  --no-emit-index-url --no-header --no-annotate --upgrade --output-file requirements.lock pyproject.toml

# PneumoJAX beside Keras and PyTorch, in an environment of its own. BENCH takes further flags of --mode=benchmark; TORCH is
# what pip installs. Alone it brings gigabytes of CUDA: without a GPU, add the index that PyTorch's pages name for CPUs.
TORCH ?= torch
PEERS ?= pneumojax-xla,keras-tensorflow,keras-jax,torch,torch-compile
bench: peers .venv-bench/kernels
	.venv-bench/bin/python -m pneumojax.main --mode=benchmark --config.benchmark.peers=$(PEERS) $(BENCH)

# Checks and measures on a CUDA GPU in at most eight minutes, by the Python that has JAX for it. The result is written after each
# step; `python -m studies.render` writes docs/benchmarks/accelerators.md from it. DATA is the folder of the children's
# radiographs; without it, phantoms are trained on. GPU takes further flags, such as --steps=peers,paper.
GPU_PYTHON ?= python3
GPU_RESULT ?= studies/results/gpu.json
gpu:
	$(GPU_PYTHON) -m studies.gpu $(if $(DATA),--data=$(DATA)) --output=$(GPU_RESULT) $(GPU)

# The locked set has Keras, since TensorFlow needs it.
.venv-bench/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --requirement requirements.lock
	.venv-bench/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

peers: .venv-bench/installed
	.venv-bench/bin/python -m pip install --quiet $(TORCH)

# Compares logits and explanations with those of Keras, PyTorch and Captum, in the same environment. Copies a run to MLflow.
test-peers: peers .venv-bench/captum .venv-bench/kernels
	KERAS=all .venv-bench/bin/python -m pytest -s tests/models/test_keras_parity.py tests/benchmark/test_peers.py \
	  tests/inference/test_captum.py tests/export/test_weights_elsewhere.py tests/docs/test_tracking.py

# The locked set has what Captum needs; some versions of Captum ask for older packages.
.venv-bench/captum: .venv-bench/installed
	.venv-bench/bin/python -m pip install --quiet --no-deps "captum>=0.7"
	.venv-bench/bin/python -m pip install --quiet mlflow-skinny
	touch $@

clean:
	rm -rf .venv .venv-bench
