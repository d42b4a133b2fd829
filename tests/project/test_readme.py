"""README's two commands, and that pages point to things that exist."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from project_tree import ROOT, kept_files
from quoted_pictures import pictures, refreshed

PAGES = sorted(name for name in kept_files() if name.endswith(".md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
PATH_IN_TEXT = re.compile(
    r"`((?:control_plane|data_plane|shm|protos|client|bench|tests|docs|systemd|examples)/[\w./-]+)`"
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Names that headings get on GitHub and its like."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_two_shell_blocks_are_the_two_commands() -> None:
    blocks = [body.strip() for language, body in FENCE.findall(text_of("README.md")) if language == "sh"]
    assert blocks[:2] == ["./dev demo", "./dev test"]
    assert os.access(ROOT / "dev", os.X_OK)


def test_ci_ends_with_the_test_command_of_the_readme() -> None:
    lines = [line for line in text_of(".ci/run").splitlines() if line.strip()]
    assert lines[-1] == "step ./dev test"
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_something(page: str) -> None:
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_exist(page: str) -> None:
    missing = [name for name in PATH_IN_TEXT.findall(text_of(page)) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_every_page_can_be_reached(page: str) -> None:
    """A page that no other page links to is found by nobody."""
    for other in PAGES:
        for target in LINK.findall(text_of(other)):
            if other != page and (ROOT / other).parent.joinpath(target.partition("#")[0]).resolve() == ROOT / page:
                return
    pytest.fail(f"no page links to {page}")


def test_the_configuration_page_is_fresh() -> None:
    from trackside.control_plane.config_pages import markdown_page

    again = "python -m trackside.control_plane.config_pages docs/configuration.md"
    assert text_of("docs/configuration.md") == markdown_page(), f"write it anew: {again}"


def run_dev(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``./dev`` as in a fresh clone: a copy of the script and of what it reads, nothing else."""
    for name in ("dev", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "dev").chmod(0o755)
    environment = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(
        [tmp_path / "dev", *arguments], capture_output=True, text=True, env=environment, check=False, timeout=60
    )


def fake_python(tmp_path: Path, text: str) -> str:
    program = tmp_path / "fake" / "python3"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program)


def test_dev_says_which_package_debian_lacks(tmp_path: Path) -> None:
    """A Python whose ensurepip is missing, as Debian's is without python3-venv."""
    python = fake_python(tmp_path, 'case "$*" in *ensurepip*) exit 1;; *print*) echo 3.11;; esac')
    done = run_dev(tmp_path, "demo", PYTHON=python)
    assert done.returncode == 1
    assert "apt-get install python3-venv (or python3.11-venv)" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_dev_says_that_python_is_too_old(tmp_path: Path) -> None:
    python = fake_python(tmp_path, "exit 1")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("dirname", "cksum", "tr"):
        found = next(Path(folder, name) for folder in os.environ["PATH"].split(":") if Path(folder, name).exists())
        (programs / name).symlink_to(found)
    done = run_dev(tmp_path, "test", PYTHON=python, PATH=str(programs))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, and found none" in done.stderr


def test_dev_shows_what_pip_said_when_it_fails(tmp_path: Path) -> None:
    """``-m venv`` makes an environment whose pip fails; the user sees its last lines and where the rest is."""
    script = """
case "$*" in
*"-m venv"*)
    mkdir -p "$4/bin" && cp "$0" "$4/bin/python"
    printf '#!/bin/sh\\necho no route to the index; exit 3\\n' >"$4/bin/pip" && chmod +x "$4/bin/pip" ;;
esac"""
    done = run_dev(tmp_path, "demo", PYTHON=fake_python(tmp_path, script))
    assert done.returncode == 1
    assert "no route to the index" in done.stderr
    assert str(tmp_path / ".venv" / "setup.log") in done.stderr


def test_dev_names_its_commands(tmp_path: Path) -> None:
    done = run_dev(tmp_path, "help")
    assert done.returncode == 0
    for command in ("demo", "test", "serve", "check"):
        assert f"./dev {command}" in done.stdout
    assert run_dev(tmp_path, "tset").returncode == 1


def test_the_page_of_commands_has_every_command_and_exit_code() -> None:
    from trackside.control_plane.cli import COMMANDS
    from trackside.control_plane.exit_codes import MEANING

    page = text_of("docs/commands.md")
    assert all(f"| `trackside {command}` |" in page for command in COMMANDS)
    assert [
        f"| {int(code)} | {meaning} |"
        for code, meaning in MEANING.items()
        if f"| {int(code)} | {meaning} |" not in page
    ] == []


def test_pictures_in_pages_are_those_of_the_code() -> None:
    page = text_of("docs/shared-memory.md")
    again = "python tests/quoted_pictures.py docs/shared-memory.md"
    assert page == refreshed(page, ROOT), f"write them anew: {again}"
    layout = pictures(ROOT / "shm" / "layout.py")
    assert all(picture in page for picture in layout), "a part of the layout is on no page"
