# Two commands are all that a new user needs: `make demo` and `make test`. Each sets up what it
# needs, the first time only. ARGS goes to the command: make demo ARGS="--devices 4 --seed 1"

SHELL := bash
.DEFAULT_GOAL := help
BIN := .venv/bin
ARGS ?=

.PHONY: help demo test check lint fmt bench experiments experiments-heterogeneous docs wheel setup programs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-28s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## the whole loop on this machine: broker, coordinator, eight agents; about two minutes
	@$(BIN)/slimfleet demo $(ARGS)

test: setup programs lint ## everything that a change must pass: linters, types, import rules, all tests
ifeq ($(ARGS),)
	@# Whatever starts no broker and no fleet of processes first; the others wait a lot, so two of their files run at a time.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit tests/contract tests/simulation -n 2 --dist worksteal
	@$(BIN)/python -m pytest tests/integration tests/e2e tests/browser -n 2 --dist loadfile
else
	@$(BIN)/python -m pytest $(ARGS)
endif

check: setup lint ## before every commit: linters, types, import rules, unit and contract tests
	@$(BIN)/python -m pytest tests/unit tests/contract -m "not slow" $(ARGS)

lint: setup ## linters, types and import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/lint-imports --no-logo --no-cache # the cache does not see files added later
	@$(BIN)/mypy --no-error-summary

fmt: setup ## format the code and mend what can be mended
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

bench: setup ## measure; never part of the tests
	@$(BIN)/python -m benchmarks $(ARGS)

experiments: setup ## fair rewards against six other methods, three data sets; an hour, resumable
	@$(BIN)/python -m benchmarks.fairness $(ARGS)

experiments-heterogeneous: setup ## methods for unlike devices: eight of them, four cases, two data sets; resumable
	@$(BIN)/python -m benchmarks.heterogeneity $(ARGS)

docs: setup ## write the generated documents anew and run what the documents promise
	@$(BIN)/python -m broker.asyncapi
	@$(BIN)/python -m slimmable.derivation.operator_table > docs/operators.md
	@$(BIN)/python -m monitor.metrics_reference > docs/metrics.md
	@$(BIN)/python -m pytest $(wildcard tests/*/test_asyncapi.py tests/*/test_operator_table.py tests/*/test_metrics_reference.py tests/*/test_docs*.py tests/*/test_tutorial*.py) $(ARGS)

wheel: setup ## build dist/*.whl, list it, install it bare and import the agent there
	@rm -rf build dist
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@rm -rf build
	@$(BIN)/python -m zipfile --list dist/*.whl
	@SLIMFLEET_WHEEL=$$(echo "$(CURDIR)"/dist/*.whl) $(BIN)/python -m pytest tests/contract/test_bare_wheel.py $(ARGS)

setup: ## build .venv (the first time, and after a change of pyproject.toml or constraints.txt)
	@.ci/setup

programs: setup ## find or install mosquitto, Prometheus and Chromium, which tests start
	@.ci/package mosquitto -h "mosquitto version" mosquitto mosquitto_passwd
	@.ci/package prometheus --version "prometheus, version" prometheus promtool
	@.ci/package chromium --version "Chromium" chromium

clean: ## remove .venv and everything that was built
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
