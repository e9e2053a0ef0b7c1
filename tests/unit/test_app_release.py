"""The controller's half of a release: what names it, which wheels it needs, where secrets come from."""

import importlib.util
import io
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path: str, name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = load("roles/django_app/action_plugins/django_app_release.py", "release_action")
module = load("roles/django_app/library/django_app_release.py", "release_module")


def project(tmp_path: Path, **args):
    """A project with what the plugin needs of this repository around it."""
    return plugin.Project(
        {
            "bundle": ROOT / "app",
            "overlay": ROOT / "roles/django_app/files",
            "cache": tmp_path / "cache",
            "project_settings": "site.settings",
            "source": str(tmp_path / "source"),
            "exclude": [".git", "*.pyc", ".env"],
            **args,
        }
    )


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source" / "site"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "settings.py").write_text("A = 1\n")
    return folder.parent


def test_a_release_is_named_by_its_content(tmp_path, source):
    first = project(tmp_path).files()
    again = project(tmp_path).files()
    assert first.digest() == again.digest() and first.tar()
    (source / "site" / "settings.py").write_text("A = 2\n")
    assert project(tmp_path).files().digest() != first.digest()


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["folder", "revision", "url"])
def test_a_project_in_a_folder_of_its_source(tmp_path, source, kind):
    top = tmp_path / "repository"
    (top / "docs").mkdir(parents=True)
    (top / "docs" / "notes.txt").write_text("not the project's\n")
    source.rename(top / "backend")
    git(top, "init", "--quiet")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "first")
    git(top, "tag", "v1")
    where = {"folder": {"source": str(top)}, "revision": {"source": str(top), "version": "v1"}}
    where["url"] = {"source": f"file://{top}", "version": "v1"}
    files = project(tmp_path, subfolder="backend", **where[kind]).files()
    assert "app/site/settings.py" in files
    assert not [path for path in files if "notes.txt" in path]


def test_what_a_pyproject_depends_on_is_installed(tmp_path, source):
    (source / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["django-taggit>=6", "requests"]\n'
    )
    made = project(tmp_path, requirements=["pyproject.toml"])
    files = made.files()
    assert files[made.wheel_files[0]][0] == b"django-taggit>=6\nrequests\n"
    before = made.wheel_key
    (source / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["requests"]\n')
    again = project(tmp_path, requirements=["pyproject.toml"])
    again.files()
    assert again.wheel_key != before


@pytest.mark.parametrize("text", ["[tool.poetry]\nname = 'x'\n", "not toml ["])
def test_a_pyproject_without_dependencies_is_refused(tmp_path, source, text):
    (source / "pyproject.toml").write_text(text)
    with pytest.raises(plugin.Problem, match=r"pyproject\.toml: no dependencies"):
        project(tmp_path, requirements=["pyproject.toml"]).files()


def test_times_and_excluded_files_do_not_make_a_release(tmp_path, source):
    before = project(tmp_path).files().digest()
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").write_text("x")
    (source / ".env").write_text("SECRET=1")
    (source / "site" / "x.pyc").write_text("x")
    (source / "site" / "settings.py").touch()
    assert project(tmp_path).files().digest() == before


def test_somebody_elses_project_gets_pool_and_status_beside_it(tmp_path, source):
    files = project(tmp_path).files()
    assert "app/site/settings.py" in files
    for path in ("djorm_pool/__init__.py", "djorm_status/middleware.py", "djorm_site_settings.py"):
        assert f"overlay/{path}" in files
    with tarfile.open(fileobj=io.BytesIO(files.tar())) as tar:
        assert {member.name for member in tar} == set(files)


def test_the_reference_site_brings_its_own_status(tmp_path):
    files = project(tmp_path, source="", project_settings="config.settings").files()
    assert "app/status/middleware.py" in files and "overlay/djorm_status/middleware.py" not in files
    assert "overlay/djorm_pool/__init__.py" in files
    assert not any(path.startswith("app/djorm_pool/") for path in files)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({"source": "/no/such/folder"}, "django_app_source=/no/such/folder"),
        ({"project_settings": "sight.settings"}, "django_app_settings_module=sight.settings"),
        ({"requirements": ["missing.txt"]}, "missing.txt"),
    ],
)
def test_what_cannot_be_is_said_before_any_host_is_asked(tmp_path, source, args, names):
    with pytest.raises(plugin.Problem, match=names):
        project(tmp_path, **args).files()


def test_wheels_depend_on_requirements_alone(tmp_path, source):
    def key():
        one = project(tmp_path, requirements=["requirements.txt"])
        one.files()
        return one.wheel_key

    (source / "requirements.txt").write_text("-r more.txt\n")
    (source / "more.txt").write_text("django-taggit==6.1.0\n")
    first = key()
    (source / "site" / "settings.py").write_text("A = 3\n")
    assert key() == first
    (source / "more.txt").write_text("django-taggit==6.0.0\n")
    second = key()
    assert second != first
    # A package inside the project is built from its code.
    (source / "requirements.txt").write_text("./library\n")
    third = key()
    (source / "library.py").write_text("x = 1\n")
    assert key() != third


def test_django_is_theirs_where_they_bring_it(tmp_path, source):
    ours, theirs = project(tmp_path).lock(), project(tmp_path, django_version="project").lock()
    assert "django==5.2" in ours and "mysqlclient==" in ours
    assert "django==" not in theirs and "mysqlclient==" in theirs and "gunicorn==" in theirs
    assert "django==6.1" in project(tmp_path, django_version="6.1").lock()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://example.org/x.git", True),
        ("git@example.org:x.git", True),
        ("/srv/projects/x", False),
        ("../x", False),
    ],
)
def test_what_is_a_git_url(source, expected):
    assert plugin.is_url(source) is expected


def spec(tmp_path, **more):
    return {"file": str(tmp_path / "secrets" / "key"), "variable": "django_app_secret_key", **more}


def test_a_key_is_made_once_and_only_for_us(tmp_path):
    first = plugin.secret("KEY", spec(tmp_path, generate=True), deployed=False, check_mode=False)
    assert len(first) >= 50
    assert plugin.secret("KEY", spec(tmp_path, generate=True), deployed=True, check_mode=False) == first
    assert stat.S_IMODE((tmp_path / "secrets" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_a_variable_wins_over_the_file(tmp_path):
    plugin.secret("KEY", spec(tmp_path, generate=True), deployed=False, check_mode=False)
    assert plugin.secret("KEY", spec(tmp_path, value="vault"), deployed=True, check_mode=False) == "vault"


def test_a_second_controller_never_makes_another_key(tmp_path):
    with pytest.raises(plugin.Problem, match=r"bring .*key from the controller"):
        plugin.secret("KEY", spec(tmp_path, generate=True), deployed=True, check_mode=False)
    assert not (tmp_path / "secrets").exists()


def test_a_password_is_not_ours_to_make(tmp_path):
    with pytest.raises(plugin.Problem, match="django_app_secret_key"):
        plugin.secret("KEY", spec(tmp_path), deployed=False, check_mode=False)


def test_check_mode_makes_no_secret(tmp_path):
    plugin.secret("KEY", spec(tmp_path, generate=True), deployed=False, check_mode=True)
    assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize("value", ["plain", 'a"b', "back\\slash", "$HOME `id`", "50 % of it", ""])
def test_an_environment_file_says_the_same_to_a_shell(value, tmp_path):
    import subprocess

    file = tmp_path / "environment"
    file.write_text(f"VALUE={module.quoted(value)}\n")
    said = subprocess.run(["sh", "-c", f'. {file}; printf %s "$VALUE"'], capture_output=True, text=True)
    assert said.stdout == value


def test_a_line_break_is_not_taken_into_the_environment_file():
    with pytest.raises(module.Failure):
        module.quoted("a\nDATABASE_USER=root")
