"""Templates, filters and roles are found whichever folder the playbook lies in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RENDER = """\
- name: Render the server's file
  ansible.builtin.copy:
    content: "{{ lookup('ansible.builtin.template', mysql_config_template) }}"
    dest: "{{ target }}"
    mode: "0600"
  vars:
    mysql_resolved: "{{ {} | mysql_settings('mysql', '9.7.4') }}"
"""
PLAYBOOK = """\
- name: Use the role from here
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Render
      ansible.builtin.include_role:
        name: mysql
        tasks_from: render
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The parts of the repository that a playbook needs, with a task of ours added to the role."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("roles", "filter_plugins", "planner", "templates"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "ansible.cfg", tree)
    (tree / "roles/mysql/tasks/render.yml").write_text(RENDER)
    return tree


def run(tree: Path, folder: str, *arguments: str) -> str:
    """Run the playbook from FOLDER; the file that it rendered."""
    (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / folder / "play.yml").write_text(PLAYBOOK)
    target = tree / "rendered"
    target.unlink(missing_ok=True)
    command = [
        "ansible-playbook",
        "-i",
        "localhost,",
        f"{folder}/play.yml",
        "-e",
        f"target={target}",
        *arguments,
    ]
    done = subprocess.run(
        [*command, *arguments, "-e", "ansible_python_interpreter={{ ansible_playbook_python }}"],
        cwd=tree,
        capture_output=True,
        text=True,
        env=os.environ | {"ANSIBLE_CONFIG": str(tree / "ansible.cfg")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target.read_text()


@pytest.mark.parametrize("folder", [".", "playbooks", "molecule/default"])
def test_found_from(copy, folder):
    assert "max_connections = 3000" in run(copy, folder)


def test_own_template_takes_its_place(copy, tmp_path):
    own = tmp_path / "mysqld.cnf.j2"
    own.write_text("# ours\n{% for row in mysql_resolved.settings %}{{ row.name }} {% endfor %}")
    rendered = run(copy, "playbooks", "-e", f"mysql_config_template={own}")
    assert rendered.startswith("# ours\n")
    assert "max_connections" in rendered
