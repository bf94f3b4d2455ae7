"""The project's checks, each in an environment of its own: `python -m nox -s tests lint types docs`."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox


nox.options.sessions = ["tests", "lint", "types", "docs"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, extras: str = "") -> None:
    """Install the package with its extras, and the named dependency groups."""
    session.install("-e", f".{extras}", *nox.project.dependency_groups(PYPROJECT, *groups))


def official_client(session: nox.Session) -> Path:
    """Install the engine's own client where it cannot meddle with ours, and return its command."""
    home = Path(session.create_tmp()) / "official"
    if not (home / "bin" / "tp").exists():
        session.run("python", "-m", "venv", "--clear", str(home))
        requirements = nox.project.dependency_groups(PYPROJECT, "official")
        session.run(
            str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements, external=True
        )
    return (home / "bin" / "tp").absolute()


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, with branch coverage of what they ran."""
    install(session, "tests", extras="[cli,redis,testing]")
    environment = {"TENSORPOOL_OFFICIAL_CLIENT": str(official_client(session))}
    session.run("coverage", "erase")
    pytest = ("coverage", "run", "-m", "pytest")
    if session.posargs:
        session.run(*pytest, *session.posargs, env=environment)
        session.run("coverage", "combine", "--quiet")
        return
    workers = ("-n", "2", "--dist", "worksteal", "--cache-clear")
    session.run(*pytest, *workers, env=environment, success_codes=[0, 1])
    if Path(".pytest_cache/v/cache/lastfailed").exists():
        # Tests that wait for real time may fail beside a busy neighbour. Each of them has to pass alone.
        session.run(*pytest, "--last-failed", env=environment)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--fail-under=95")
    session.run("coverage", "report", "--include=tensorpool_async/protocol/*", "--fail-under=100")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of package and tests with both checkers, strictly, and what users see of the package."""
    install(session, "typing", extras="[cli]")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "tensorpool_async", "--ignoreexternal")
    session.run("python", "-m", "tests.public_api")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs", extras="[cli]")
    shutil.rmtree(Path("docs/_build"), ignore_errors=True)
    session.run(
        "sphinx-build", "-T", "-E", "-W", "--keep-going", "-n", "-b", "html", "docs", "docs/_build/html"
    )


@nox.session
def demo(session: nox.Session) -> None:
    """Provision docs/examples/fleet.toml against an emulator in the same process, then destroy it again."""
    install(session, extras="[cli]")
    session.run("tpa", "up", "docs/examples/fleet.toml", "--emulate", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Print the figures that the documentation gives; not part of the tests."""
    install(session, "bench")
    session.run("python", "-m", "tests.benchmarks.polling", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "tests.benchmarks.flow")
        session.run("python", "-m", "tests.benchmarks.provisioning")
        session.run("python", "-m", "tests.benchmarks.journal")
