# Everything starts here; each target makes .venv and installs what it needs.

PYTHON ?= python3
export PYTHON
RUN := .venv/bin
KERNEL ?= 6.12

.PHONY: help demo test test-kernel lint bench bench-service bench-data-plane bench-paths bench-congestion docs clean

help:
	@echo "make demo    a stream survives a full link because it is in a flow (30 s)"
	@echo "make test    all tests"
	@echo "make test-kernel  tests of what this kernel may lack, under one built for it (10 min, then 4)"
	@echo "make lint    ruff, mypy strict, import rules"
	@echo "make bench   speed, as ratios against named peers"
	@echo "make bench-service  what the service costs, beside a bare echo, and under attack (root, 2 min)"
	@echo "make bench-data-plane  what marks cost in the kernel, beside nftables and tc (root, 1 min)"
	@echo "make bench-paths  accuracy of path measurements, beside iperf3 (20 min, wants a quiet machine)"
	@echo "make bench-congestion  how soon congestion is told and relief, beside peers (15 min, likewise)"
	@echo "make docs    the documentation, into docs/_build/html"

demo: .venv/.demo
	@$(RUN)/qwave demo --chart demo.png

# Compiled modules are kept, whatever the environment says: tests start hundreds of programs.
test: .venv/.dev .venv/.tools
	@PYTHONDONTWRITEBYTECODE= $(RUN)/python -m pytest --numprocesses auto

# fq, netem, VLAN and Wi-Fi, under User Mode Linux: KERNEL=6.1 for an older one.
test-kernel: .venv/.dev
	@$(RUN)/python -m tests.other_kernel test --linux $(KERNEL)

lint: .venv/.dev
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports

bench: .venv/.dev
	@$(RUN)/python bench/set_flow.py
	@$(RUN)/python bench/admission.py

bench-service: .venv/.dev
	@$(RUN)/python -m bench.service
	@$(RUN)/python -m bench.service_attacks

bench-data-plane: .venv/.dev .venv/.tools
	@$(RUN)/python -m bench.data_plane

bench-paths: .venv/.dev
	@$(RUN)/python -m bench.estimate

bench-congestion: .venv/.dev
	@$(RUN)/python -m bench.congestion

docs: .venv/.docs
	@$(RUN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf .venv docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.demo: pyproject.toml scripts/venv.sh
	@scripts/venv.sh all && touch $@

.venv/.dev: pyproject.toml scripts/venv.sh
	@scripts/venv.sh dev && touch $@ .venv/.demo

# Programs that tests run and pip does not bring. Asked for again while one is missing.
.venv/.tools: scripts/tools.sh | .venv/.dev
	@scripts/tools.sh $@

.venv/.docs: pyproject.toml scripts/venv.sh
	@scripts/venv.sh docs && touch $@ .venv/.demo
