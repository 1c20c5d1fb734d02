# Two commands on a fresh machine with Python >= 3.10:  make demo   and   make test
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format clean

demo: .venv/installed
	$(BIN)/python benchmarks/demo.py --out runs/demo

test: .venv/installed lint
	$(BIN)/pytest -n 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs genesis_rl envs pretrain benchmarks tests

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first: its pinned release is what keeps anything else from pulling another one in.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		(echo "genesis-rl needs Python >= 3.10, but $(PYTHON) is $$($(PYTHON) -V); run: make PYTHON=python3.11"; exit 2)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[viz,env,dev]'
	@touch $@

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .mypy_cache
