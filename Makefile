# Run `make help`. Every value a user can set is checked below before anything runs, and reaches the programs through the
# environment, never as text of a shell command.

SHELL := /bin/sh
.SHELLFLAGS := -ec
.DEFAULT_GOAL := help
.SUFFIXES:

override USER_VARIABLES := NAME BASE DATA EVALS SUITES WORKERS OUT SET PANEL PROBE BUDGET RETRY VENUE FAST \
  OTHER OTHER_BASE OTHER_SET REPLICATES RERUN PORT FORMAT STORAGE EXECUTOR ADDRESS PARTITION WATCH

# make expands a command-line variable when it exports it, whether a recipe names it or not. `value` takes the text as it
# is; `:=` makes it final. This must stay the first thing that touches a variable.
override NAME := $(value NAME)
override BASE := $(value BASE)
override DATA := $(value DATA)
override EVALS := $(value EVALS)
override SUITES := $(value SUITES)
override WORKERS := $(value WORKERS)
override OUT := $(value OUT)
override SET := $(value SET)
override PANEL := $(value PANEL)
override PROBE := $(value PROBE)
override BUDGET := $(value BUDGET)
override RETRY := $(value RETRY)
override VENUE := $(value VENUE)
override FAST := $(value FAST)
override FORMAT := $(value FORMAT)
override OTHER := $(value OTHER)
override OTHER_BASE := $(value OTHER_BASE)
override OTHER_SET := $(value OTHER_SET)
override REPLICATES := $(value REPLICATES)
override RERUN := $(value RERUN)
override PORT := $(value PORT)
override STORAGE := $(value STORAGE)
override EXECUTOR := $(value EXECUTOR)
override ADDRESS := $(value ADDRESS)
override PARTITION := $(value PARTITION)
override WATCH := $(value WATCH)
export NAME BASE DATA EVALS SUITES WORKERS OUT SET PANEL PROBE BUDGET RETRY VENUE FAST
export OTHER OTHER_BASE OTHER_SET REPLICATES RERUN PORT FORMAT STORAGE EXECUTOR ADDRESS PARTITION WATCH

# A variable that this file does not know is refused: make would expand it on export, too. $(foreach) sees names only.
override v :=
override UNKNOWN := $(firstword $(foreach v,$(filter-out $(USER_VARIABLES) USER_VARIABLES v,$(.VARIABLES)),\
  $(if $(filter command,$(firstword $(origin $(v)))),$(v))))
$(if $(UNKNOWN),$(error $(UNKNOWN) is not a variable of this Makefile, but must be one of $(USER_VARIABLES)))
MAKEOVERRIDES :=

empty :=
space := $(empty) $(empty)
define newline


endef
tab := $(empty)	$(empty)
comma := ,
digits := 0 1 2 3 4 5 6 7 8 9
letters := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
# remove: text less every character of a list. White space is turned into `#` first, so that it counts.
hash := \#
visible = $(subst $(space),$(hash),$(subst $(tab),$(hash),$(subst $(newline),$(hash),$(1))))
remove = $(if $(1),$(call remove,$(wordlist 2,999,$(1)),$(subst $(firstword $(1)),,$(2))),$(2))
# guard: variable, allowed characters, rule. The value is only ever an argument of a function, never expanded again.
guard = $(if $(call remove,$(2),$(call visible,$($(1)))),$(error $(1) is not allowed as given, but must be $(3)))

words := $(letters) $(digits) _ -
paths := $(words) . / : ~ + = @ ,
$(call guard,NAME,$(words),the name of a sweep: letters$(comma) digits$(comma) _ and - (see sweeps/))
$(call guard,OTHER,$(words),the name of a sweep: letters$(comma) digits$(comma) _ and - (see sweeps/))
$(call guard,PANEL,$(letters),primary or full)
$(call guard,FORMAT,$(letters),markdown or latex)
$(call guard,VENUE,$(words),a name: letters$(comma) digits$(comma) _ and -)
$(call guard,WORKERS,$(digits),a number)
$(call guard,PROBE,0 1,0 or 1)
$(call guard,RETRY,0 1,0 or 1)
$(call guard,FAST,0 1,0 or 1)
$(call guard,RERUN,0 1,0 or 1)
$(call guard,WATCH,0 1,0 or 1)
$(call guard,REPLICATES,$(digits),a number)
$(call guard,PORT,$(digits),a number)
$(call guard,EXECUTOR,$(letters),local$(comma) ray or slurm)
$(call guard,ADDRESS,$(words) . :,host:port of a Ray cluster)
$(call guard,PARTITION,$(words) . $(comma),names of SLURM partitions with commas between)
$(call guard,BUDGET,$(digits) . s m h,a time such as 2h$(comma) 90m or 45s)
$(call guard,BASE,$(paths),the name of a base (see experiments/)$(comma) a path or trial:<id>$(comma) without white space)
$(call guard,OTHER_BASE,$(paths),the name of a base (see experiments/)$(comma) a path or trial:<id>$(comma) without white space)
$(call guard,DATA,$(paths),a path without white space or quotes)
$(call guard,EVALS,$(paths),a path without white space or quotes)
$(call guard,SUITES,$(words) $(comma),names of suites with commas between)
$(call guard,OUT,$(paths),a path without white space or quotes)
$(foreach v,NAME OTHER BASE OTHER_BASE DATA EVALS SUITES OUT VENUE STORAGE ADDRESS PARTITION,$(if $(filter -%,$($(v))),$(error $(v) is not allowed as given, but must not start with -)))
# A password would stand in the list of processes; it is refused here, before any process gets it, and is not repeated.
$(call guard,STORAGE,$(paths) ? & %,postgresql://user@host:port/database without white space or quotes)
$(if $(findstring @,$(STORAGE)),$(if $(findstring :,$(subst ://,,$(firstword $(subst @, ,$(STORAGE))))),\
  $(error STORAGE holds a password$(comma) but must be without; give it in the environment: PGPASSWORD or PGPASSFILE)))
$(if $(findstring password=,$(STORAGE)),\
  $(error STORAGE holds a password$(comma) but must be without; give it in the environment: PGPASSWORD or PGPASSFILE))
$(foreach v,SET OTHER_SET,$(if $(findstring $$,$($(v)))$(findstring `,$($(v)))$(findstring $(newline),$($(v))),\
  $(error $(v) is not allowed as given, but must be a JSON object on one line without dollar signs and backticks)))

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
# Left out where a variable is empty; the shell reads the value from the environment and never looks into it.
options = $${BASE:+--base "$$BASE"} $${DATA:+--data "$$DATA"} $${EVALS:+--evals "$$EVALS"} \
  $${SUITES:+--suites "$$SUITES"} $${SET:+--set "$$SET"} \
  $${PANEL:+--panel "$$PANEL"} $${OUT:+--out "$$OUT"}
audit_options = $${BASE:+--base "$$BASE"} $${DATA:+--data "$$DATA"} $${EVALS:+--evals "$$EVALS"} \
  $${SUITES:+--suites "$$SUITES"} $${SET:+--set "$$SET"} \
  $${OUT:+--out "$$OUT"}
workers = $${WORKERS:+--workers "$$WORKERS"}
place = $${EXECUTOR:+--executor "$$EXECUTOR"} $${ADDRESS:+--address "$$ADDRESS"} $${PARTITION:+--partition "$$PARTITION"}
budget = $${BUDGET:+--budget "$$BUDGET"}
harness := $(PYTHON) -m harness
slow := slow or ray or slurm
port = $${PORT:+--port "$$PORT"}
storage = $${STORAGE:+--storage "$$STORAGE"}
need_rows = @test -n "$$DATA" || { echo "DATA is empty, but must be a folder of .jsonl files" >&2; exit 2; }
need_tokenizer = @test -n "$$BASE" || { echo "BASE is empty, but must be the folder of a tokenizer" >&2; exit 2; }
need_name = @test -n "$$NAME" || { echo "NAME is empty, but must be a sweep: $$(ls sweeps | sed -n 's/^\([a-z].*\)\.py$$/\1/p' | tr '\n' ' ')" >&2; exit 2; }

.PHONY: help setup schedulers check test test-slow fetch plan sweep status report figures compare recovery claims claims-run study dashboard notebook stats-check audit pocket pocket-check chaos bench bench-engine bench-forecast bench-scorer bench-training bench-preparation bench-audit bench-labels bench-memory bench-processes clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo
	@echo 'Variables: NAME a sweep; BASE an experiment, a model folder or trial:<id>; DATA a file; EVALS a folder; SUITES names'
	@echo 'of suites in it (general,skills,instruction,safety,code,code_execution,prose); OUT where records go; WORKERS trials at a time;'
	@echo 'SET a JSON object of fields; PANEL=full all slices; PROBE=1 measure first; BUDGET=2h stop after (plan: how far it'
	@echo 'reaches); RETRY=1 run failed trials again; FAST=1 the claim sweeps of few conditions, two seeds of one world;'
	@echo 'VENUE whose page figures fit; OTHER, OTHER_BASE, OTHER_SET the sweep to compare with; RERUN=1 run trials that kept'
	@echo 'no weights again; REPLICATES of the simulations; FORMAT=markdown or latex the claims to paste; PORT where a page is served on this machine;'
	@echo 'STORAGE=postgresql://user@host:port/database the server that mirrors a study (password: PGPASSWORD or PGPASSFILE).'
	@echo 'EXECUTOR=ray ADDRESS=host:port (a running cluster) or EXECUTOR=slurm PARTITION=name where trials run: docs/operator.md.'

setup: $(VENV)/.ready ## Make the environment (the other targets do so by themselves)

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "making the environment in $(VENV): some minutes, once" >&2
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.ready-dashboard: pyproject.toml constraints.txt $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[dashboard]'
	@touch $@

$(VENV)/.ready-postgres: pyproject.toml constraints.txt $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[postgres]'
	@touch $@

$(VENV)/.ready-schedulers: pyproject.toml constraints.txt $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[ray,slurm]'
	@touch $@

$(VENV)/.ready-notebook: pyproject.toml constraints.txt $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[notebook]'
	@touch $@

schedulers: $(VENV)/.ready-schedulers ## Install what EXECUTOR=ray and EXECUTOR=slurm need, and the tests of both

check: $(VENV)/.ready-dev ## Format, lint, types, import directions
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/basedpyright & types=$$!; \
	  OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q tests/test_architecture.py; tests=$$?; \
	  wait $$types && exit $$tests

tests := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadgroup

test: $(VENV)/.ready-dev ## Run the tests, but those of test-slow
	@$(tests) -m 'not ($(slow))'

test-slow: $(VENV)/.ready-dev ## Run the tests that take long: Ray, SLURM (make schedulers), whole claims, every sweep that ships
	@$(tests) -m '$(slow)'

fetch: $(VENV)/.ready ## Fetch and pin the weights of BASE, or a dataset of items, EVALS=hub:owner/name; the only target that uses the network after installation
	@$(harness) fetch $${BASE:+--base "$$BASE"} $${EVALS:+--evals "$$EVALS"} $${OUT:+--out "$$OUT"}

plan: $(VENV)/.ready ## Print the trials of NAME, what is done and what the rest costs
	$(need_name)
	@$(harness) plan "$$NAME" $(options) $(workers) $(place) $(budget) $$(test "$$PROBE" != 1 || echo --probe)

sweep: $(VENV)/.ready $(if $(STORAGE),$(VENV)/.ready-postgres) ## Run NAME on BASE and write the report
	$(need_name)
	@$(harness) sweep "$$NAME" $(options) $(workers) $(place) $(budget) $(storage) \
	  $$(test "$$RETRY" != 1 || echo --retry-failed)

study: sweep ## Run a study, e.g. NAME=tune

status: $(VENV)/.ready ## Print where NAME (or everything) is; WATCH=1 until it is over
	@$(harness) status $${NAME:+"$$NAME"} $(options) $$(test "$$WATCH" != 1 || echo --watch)

report: $(VENV)/.ready ## Write the report of NAME
	$(need_name)
	@$(harness) report "$$NAME" $(options)

figures: $(VENV)/.ready ## Write the figures of NAME
	$(need_name)
	@$(harness) figures "$$NAME" $(options) $${VENUE:+--venue "$$VENUE"}

compare: $(VENV)/.ready ## Print how the sweep OTHER (or NAME on OTHER_BASE) differs from NAME, condition by condition
	$(need_name)
	@$(harness) compare "$$NAME" $${OTHER:+"$$OTHER"} $(options) \
	  $${OTHER_BASE:+--other-base "$$OTHER_BASE"} $${OTHER_SET:+--other-set "$$OTHER_SET"}

recovery: $(VENV)/.ready ## Train follow-ups of NAME: does what was forgotten come back? Needs kept weights
	$(need_name)
	@$(harness) recovery "$$NAME" $(options) $(workers) $(place) $(budget) \
	  $$(test "$$RETRY" != 1 || echo --retry-failed) $$(test "$$RERUN" != 1 || echo --rerun)

claims: $(VENV)/.ready ## Print the verdict of every claim, and the command that makes it
	@$(harness) claims $${OUT:+--out "$$OUT"} $${FORMAT:+--format "$$FORMAT"}

claims-run: $(VENV)/.ready ## Run every sweep that declares claims: detached, resumable; FAST=1 a subset in minutes
	@$(harness) claims-run $${OUT:+--out "$$OUT"} $(workers) $(place) $$(test "$$FAST" != 1 || echo --fast)

dashboard: $(VENV)/.ready-dashboard $(if $(STORAGE),$(VENV)/.ready-postgres) ## Open optuna-dashboard on a study, on this machine only
	@$(harness) dashboard "$${NAME:-tune}" $(options) $(port) $(storage)

notebook: $(VENV)/.ready-notebook ## Open a marimo notebook on NAME, on this machine only
	$(need_name)
	@$(harness) notebook "$$NAME" $(options) $(port)

stats-check: $(VENV)/.ready ## Check every interval and test against simulated truth; REPLICATES=800 in a few minutes
	@OMP_NUM_THREADS=1 $(PYTHON) -m analysis.stats_check $${REPLICATES:+--replicates "$$REPLICATES"} $(workers)

chaos: $(VENV)/.ready-dev ## Kill, starve and damage the engine thousands of times and count what is lost: expected 0; make test does it shorter
	@OMP_NUM_THREADS=1 $(PYTHON) -m tests.chaos --set long

audit: $(VENV)/.ready ## Show what would be trained on with DATA on BASE: tokens, masks, duplicates, contamination
	@$(harness) audit $(audit_options)

pocket: $(VENV)/.ready ## Show the pocket world: what its base knows and answers, before and after fine-tuning
	@$(harness) pocket $${OUT:+--out "$$OUT"} $(workers)

pocket-check: $(VENV)/.ready ## Check the acceptance bands of the pocket world on three world seeds
	@$(harness) pocket-check $${OUT:+--out "$$OUT"} $(workers)

bench: $(VENV)/.ready-dev ## Compare with a loop of separate training and evaluation commands
	@$(PYTHON) -m benchmarks.shell_loop

bench-engine: $(VENV)/.ready-dev ## Measure what the engine adds to a trial, to a call with nothing to do, and to planning 10 000 cells
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.engine

bench-forecast: $(VENV)/.ready-dev ## Compare the forecasts of make plan with what trials take: seconds (pocket), memory (SmolLM2 of OUT; DATA its rows)
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.forecast $${OUT:+--store "$$OUT"} $${DATA:+--rows "$$DATA"}

bench-scorer: $(VENV)/.ready-dev ## Compare the scorer with lm-eval's own, on the bases that are here
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.scorer

bench-training: $(VENV)/.ready-dev ## Compare training with TRL's, on BASE (smollm2_135m_instruct, or gemma3_270m)
	@OMP_NUM_THREADS=2 $(PYTHON) -m benchmarks.training $${BASE:+--base "$$BASE"}

bench-preparation: $(VENV)/.ready-dev ## Compare the preparation of rows with TRL's
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.preparation

bench-audit: $(VENV)/.ready-dev ## Count what the .jsonl files of the folder DATA train on with the tokenizer BASE, a folder[:template]
	$(need_rows)
	$(need_tokenizer)
	@$(PYTHON) -m benchmarks.audit_table "$$DATA" --tokenizers "$$BASE" $${OUT:+--out "$$OUT"}

bench-labels: $(VENV)/.ready-dev ## Compare the labels of those files with TRL's
	$(need_rows)
	$(need_tokenizer)
	@$(PYTHON) -m benchmarks.trl_labels "$$DATA" --tokenizers "$$BASE" $${OUT:+--out "$$OUT"}

bench-memory: $(VENV)/.ready-dev ## Measure the memory that preparing a million rows takes with the tokenizer BASE, a folder
	$(need_tokenizer)
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.memory --tokenizer "$$BASE"

bench-processes: $(VENV)/.ready-dev ## Measure what each of several processes holds that train one model
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.processes

clean: ## Remove caches and build files; results under OUT stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	rm -rf ./*.egg-info
	find harness experiments sweeps analysis tests -name __pycache__ -type d -prune -exec rm -rf {} +
