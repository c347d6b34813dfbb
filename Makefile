SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup demo report test test-faults bench bench-features bench-growth bench-train bench-score bench-accuracy peers lint lock docs dist clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## make .venv: packages, Horovod, Delta for Spark (about 4 minutes once, then under a second)
	@PYTHON="$(PYTHON)" tools/setup.sh

demo: setup ## from raw logs to recommendations, on a small public data set
	@tools/demo.sh

report: setup ## a page about the demo's run: build/movielens/report.html
	python jobs/report.py conf/movielens.yaml

test: setup ## run the tests, two files at a time
	pytest -n 2 --dist loadfile --no-loadscope-reorder

test-faults: setup ## kill and disturb everything at many moments; nothing may be lost (about 37 minutes)
	pytest -m faults -n 2 --dist loadfile --no-loadscope-reorder

bench-growth: setup ## prepare of a million rows to a hundred million (about a quarter of an hour; 10 GB of disk)
	python benchmarks/bench_growth.py

bench: bench-features bench-train bench-score ## measure everything side by side with its peers, into build/bench/

bench-features: setup ## fit and transform against Spark ML (about 25 minutes; makes 20 million rows)
	spark-submit --properties-file conf/spark.conf --driver-memory 2g benchmarks/bench_features.py

bench-train: peers ## training against DeepCTR-Torch, FuxiCTR and plain torch (about 40 minutes)
	python benchmarks/bench_train.py

bench-accuracy: peers ## test AUC against FM, FwFM and DeepCTR-Torch (about 50 minutes; DATA=folder of the MovieLens logs)
	python benchmarks/bench_accuracy.py $(if $(DATA),data=$(DATA))

peers: setup
	uv venv -q --allow-existing --python .venv/bin/python build/bench/peers
	uv pip install -q --python build/bench/peers/bin/python -r benchmarks/peers.txt

bench-score: setup ## scoring all pairs against Spark ALS and a naive cross join (about half an hour)
	python tools/portable_kernels.py
	spark-submit --properties-file conf/spark.conf benchmarks/bench_score.py

lint: setup ## check style, types and who imports whom
	ruff check && ruff format --check
	mypy
	lint-imports --no-logo
	python tools/configuration_reference.py --check
	python tools/command_reference.py --check

docs: setup ## build the documentation into build/site; a warning is an error
	uv venv -q --allow-existing --python .venv/bin/python build/docs
	uv pip install -q --python build/docs/bin/python -r docs/requirements.txt
# -q would hide warnings from --strict, too.
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict
	@echo 'build/site/index.html; to search it, too: python -m http.server -d build/site'

lock: setup ## pin requirements.in and docs/requirements.in anew (make lock UPGRADE=--upgrade takes the newest)
	for file in requirements docs/requirements; do \
	    uv pip compile $$file.in -o $$file.txt $(UPGRADE) --universal --python-version 3.11 \
	        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' || exit; \
	done

dist: setup ## build the wheel that spark-submit --py-files takes, into dist/
	python tools/portable_kernels.py # executors may have no compiler
	rm -rf build/lib && python -m build --wheel --no-isolation # a wheel takes old files along otherwise

clean: ## remove what was built, not .venv
	rm -rf build dist afm/kernels/portable *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -exec rm -rf {} +
