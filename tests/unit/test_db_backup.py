"""db-backup without a server: whether a binary log is the one that a copy was taken with."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "roles" / "backup" / "files" / "db_backup.py"
spec = importlib.util.spec_from_file_location("db_backup", FILE)
db_backup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(db_backup)

NAME = "binlog.000002"
TEXT = b"\xfebin" + bytes(range(200)) * 3


def note(path, position):
    return {
        "taken": "then",
        "checked": {"log": NAME, "position": position, "head": db_backup.head(path, position)},
    }


@pytest.fixture
def log(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(TEXT)
    return path


def test_a_log_that_grew_or_was_closed_is_the_same(log):
    known = note(log, 400)
    open_flag = bytearray(TEXT + b"more")
    open_flag[21] ^= 1
    log.write_bytes(open_flag)
    db_backup.Backup.same_log(known, [str(log)])


@pytest.mark.parametrize("at", [0, 10, 20, 23, 399])
def test_another_log_of_the_same_name_is_refused(log, at):
    known, other = note(log, 400), bytearray(TEXT)
    other[at] ^= 1
    log.write_bytes(other)
    with pytest.raises(db_backup.Trouble, match=f"{NAME} is not the one .* of then .* mend:"):
        db_backup.Backup.same_log(known, [str(log)])


def test_copies_of_older_releases_know_no_head(log):
    db_backup.Backup.same_log({"taken": "then", "checked": {"log": NAME, "position": 9}}, [str(log)])


class Node(db_backup.Backup):
    """A node whose server answers, and what was done to it."""

    def __init__(self):
        self.config, self.done = {"cluster": True, "datadir": "/nowhere"}, []
        self.live = type("Live", (), {"alive": lambda _: True})()
        self.mysql = False

    def let_in(self):
        self.done.append("let in")

    def take(self):
        self.done.append("take")
        return {"taken": "now"}


def test_the_timer_leaves_a_restore_that_was_cut_off_alone(tmp_path, monkeypatch):
    placed = tmp_path / "placed.json"
    placed.write_text("{}")
    monkeypatch.setattr(db_backup, "PLACED", str(placed))
    node = Node()
    assert "waits" in node.keep_up()
    assert node.done == []


def test_data_that_were_never_marked_are_no_nodes_history(tmp_path, monkeypatch):
    monkeypatch.setattr(db_backup, "HOME", str(tmp_path))
    assert not Node().same_data()


@pytest.mark.parametrize(
    ("said", "healed"),
    [
        ("ERROR 1045 (28000): Access denied for user 'backup'@'localhost'", True),
        ("ERROR 1698 (28000): Access denied for user 'backup'@'localhost'", True),
        ("ERROR 1040 (HY000): Too many connections", False),
        ("ERROR 1226 (42000): User 'backup' has exceeded the 'max_user_connections' resource", False),
        ("ERROR 2002 (HY000): Can't connect to local server", False),
    ],
)
def test_the_account_is_made_anew_only_where_it_is_not_let_in(said, healed, monkeypatch):
    def ask(self, text):
        raise db_backup.Trouble(f"socket: {said}")

    monkeypatch.setattr(db_backup.Server, "ask", ask)
    assert db_backup.Server({"flavor": "mysql"}, "socket", "backup").refused() == healed
