# One word each. `make demo` and `make test` set everything up on a fresh machine.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SEED ?= 0
FILES ?= 2400

# Threads that wait for one another sleep instead of spinning: on a busy machine spinning costs up to 20 times.
export OMP_WAIT_POLICY = passive

.PHONY: demo test test-slow test-gpu fidelity fuzz lint fixup setup setup-dev clean

demo: setup
	$(RUN) reproduce.py --config configs/mini.yaml --seed $(SEED)

# A process a core, each test file whole in one of them; the long ones, tests of the scripts, come first.
test: setup-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --dist loadscope --no-loadscope-reorder

test-slow: setup-dev
	$(RUN) -m pytest -q -m slow

test-gpu: setup-dev
	$(RUN) -m pytest -q -m gpu

fidelity: setup-dev
	OMP_NUM_THREADS=2 $(RUN) -m tests.golden.measure
	$(RUN) -m tests.golden.measure_quirks

# Damaged and hostile files, each read by the project's own reader; SEED=1 makes others.
fuzz: setup-dev
	$(RUN) -m tests.fuzz --files $(FILES) --seed $(SEED)

lint: setup-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

fixup: setup-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

setup: $(VENV)/ready
setup-dev: $(VENV)/ready-dev

# A marker is written only after pip has succeeded, so that an interrupted set-up is taken up again.
$(VENV)/ready: requirements.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/ready-dev: requirements-dev.txt requirements.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/ready

clean:
	rm -rf $(VENV) runs
