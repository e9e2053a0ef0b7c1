"""The program that lets a node's server start only where there is room."""

import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

FILES = Path(__file__).resolve().parents[2] / "roles" / "mysql_cluster" / "files"


@pytest.fixture
def room(tmp_path, monkeypatch):
    loader = SourceFileLoader("room", str(FILES / "room"))
    module = module_from_spec(spec_from_loader("room", loader))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDERS", str(tmp_path / "folders"))
    (tmp_path / "data").mkdir()
    return module


def test_a_host_whose_server_has_not_run_yet(room):
    assert room.main() == 0


def test_room_enough(room, tmp_path):
    (tmp_path / "folders").write_text(f"{tmp_path / 'data'}\n{tmp_path / 'gone'}")
    assert room.main() == 0


def test_too_little_is_said_with_the_mend(room, tmp_path, monkeypatch):
    (tmp_path / "folders").write_text(str(tmp_path / "data"))
    monkeypatch.setattr(room, "ROOM", 2**62)
    assert re.fullmatch(
        rf"not started: \d+ MiB are free in {tmp_path}/data; mend: have \d+ MiB there", room.main()
    )


def test_the_agent_means_the_same_by_room(room):
    assert (
        f"FULL_FOR, FULL, ROOM = 2, 8 * 2**20, {room.ROOM // 2**20} * 2**20" in (FILES / "agent").read_text()
    )
