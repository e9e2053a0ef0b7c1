# Thin: each target is a line or two that calls the tool which does the work.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
OS ?= mysql
INVENTORY ?= inventories/sandbox

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages and .venv (the other targets call it)
	@tools/setup

setup-sandbox:
	@tools/setup --sandbox

demo: setup-sandbox ## start one throw-away host and deploy on it; OS=mysql|debian13|debian12
	@tools/step "start the host ($(OS))" ansible-playbook playbooks/sandbox.yml -e sandbox_os=$(OS)
	@ansible-playbook playbook.yml -e report_file=$(CURDIR)/.cache/report.txt
	@cat .cache/report.txt

demo-down: setup-sandbox ## remove the demo's host and everything it left
	@tools/step "remove the host" ansible-playbook playbooks/sandbox.yml -e sandbox_state=absent -e sandbox_remove_images=true

deploy: setup ## deploy to real hosts over SSH; INVENTORY=inventories/NAME
	@ansible-playbook -i $(INVENTORY) playbook.yml

plan: setup ## the connection budget and the parameters, no host touched; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/plan.yml

rollback: setup ## back to the release before, or to one that is kept: RELEASE=ID; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/rollback.yml $(if $(RELEASE),-e rollback_release=$(RELEASE))

rotate: setup ## new passwords for the servers' accounts, while the site serves; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/rotate.yml

restart: setup ## the servers, one after the other; waits for long transactions; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/restart.yml

backup: setup ## a backup of every server that has backup_repository, and its proof, now; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/backup.yml

restore: setup ## TO="2026-11-22 10:00:00" (UTC); OVERWRITE=yes puts a live database aside; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/restore.yml $(if $(TO),-e restore_to="'$(TO)'") \
	  $(if $(filter yes,$(OVERWRITE)),-e restore_overwrite=true)

upgrade: setup ## onto live data: this bundle, Django, each server's newest minor version; refused without a proven backup; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/upgrade.yml

verify: setup ## compare what runs with what is declared, read-only: a table, not 0 where it differs; INVENTORY=...
	@ansible-playbook -i $(INVENTORY) playbooks/verify.yml

test: setup-sandbox ## what CI runs: lint, unit, pool on real servers, core scenarios (under 45 min)
	@tools/run-tests core

test-fast: setup ## lint and unit tests, in seconds
	@tools/run-tests fast

test-long: setup-sandbox ## what takes longer: everything above, and version matrices, conformance, mutants
	@tools/run-tests long

bench-restore: setup-sandbox ## seconds to back up, prove and restore 1 GB; writes its table to docs/reliability.md
	@python bench/restore.py

bench-deploy: setup-sandbox ## seconds of a first run and of a run that changes nothing, on each host
	@python bench/deploy.py

chaos-release: setup-sandbox ## 20 releases and 5 rollbacks under load; writes its table to docs/reliability.md
	@python bench/release.py

chaos: setup-sandbox ## server and application through fault after fault under load; OS=mysql|debian13, else both; writes its tables
	@python bench/chaos.py --write $(if $(filter-out file,$(origin OS)),--os $(OS))

chaos-cluster: setup-sandbox ## the writer of a cluster through fault after fault; KIND=galera|group_replication, else both; writes its tables
	@python bench/chaos_cluster.py --write $(if $(KIND),--kind $(KIND))

bench-plan: setup ## seconds of a plan for 1 to 1,000 application hosts
	@python bench/plan.py

bench-pool: setup-sandbox ## the pool against its peers: ratios, medians of several rounds
	@tools/run-tests bench-pool

conformance: setup-sandbox ## Django's own tests with the pool and without: the difference
	@tools/run-tests conformance

lock: setup ## make requirements.txt and app/requirements*.txt again from the .in files
	@tools/lock

clean: ## forget .venv and .cache
	@rm -rf .venv .cache

.PHONY: help setup setup-sandbox demo demo-down deploy plan rollback rotate restart backup restore upgrade verify test test-fast test-long chaos chaos-cluster chaos-release bench-restore bench-deploy bench-plan bench-pool conformance lock clean
