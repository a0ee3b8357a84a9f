"""T8: what the proofs found, as report.json for programs and report.html for people, without names and paths of the
machine they ran on. The page is one file that needs nothing else, in light and dark."""

import html
import importlib.metadata
import os
import platform
import re
import socket
import sqlite3
import sys
import time
from pathlib import Path

import msgspec

from routerx.errors import LedgerUnusable
from routerx.ledger.proof.verify import verify_file
from tests.torture.arena import Report
from tests.torture.processes import ROOT

PACKAGES = ("routerx", "aiohttp", "msgspec", "uvloop", "cryptography")
SPOILT = ("checker", "power")
"""Proofs that leave ledgers with faults that were put into them."""

STYLE = """
:root { color-scheme: light dark; --bad: #b3261e; --good: #1b6e3c; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7ddc9f; } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } p { margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem; }
th { font-weight: 500; } details { border-top: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; } summary span { float: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } details th { width: 30%; opacity: .75; font-weight: 400; }
.bad { color: var(--bad); } .good { color: var(--good); }
"""


Options = dict[str, int | float | str | None]
"""As they were given; a flag is a number."""


class Proof(msgspec.Struct, frozen=True):
    """One proof and how it ended."""

    name: str
    title: str
    seconds: float
    figures: dict[str, str]
    violations: list[str]


class Books(msgspec.Struct, frozen=True):
    """The ledgers that are left in the end, each verified once more."""

    ledgers: int
    requests: int
    transfers: int
    violations: list[str]


class Findings(msgspec.Struct, frozen=True):
    """All of report.json."""

    passed: bool
    began: str
    """UTC."""
    seconds: float
    seed: int
    options: Options
    versions: dict[str, str]
    machine: dict[str, str]
    proofs: list[Proof]
    books: Books


class Reporter:
    """Collects what the proofs of one run found. `place` is where they leave their files."""

    def __init__(self, place: Path, seed: int, options: Options) -> None:
        self._place = place
        self._seed = seed
        self._options = options
        self._began_ns = time.time_ns()
        self._machine = _machine()  # How busy it is besides, is of interest before the proofs make it so.
        self._proofs: list[Proof] = []

    def add(self, name: str, report: Report, seconds: float) -> None:
        """A proof that has ended."""
        figures = {self._clean(figure): self._clean(value) for figure, value in report.figures.items()}
        violations = [self._clean(violation) for violation in report.violations]
        self._proofs.append(Proof(name, self._clean(report.name), round(seconds, 1), figures, violations))

    def write(self, folder: Path) -> bool:
        """Verify all ledgers once more and write both files; True when nothing at all was wrong."""
        books = self._verify()
        passed = not books.violations and not any(proof.violations for proof in self._proofs)
        findings = Findings(
            passed=passed,
            began=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began_ns // 10**9)),
            seconds=round((time.time_ns() - self._began_ns) / 10**9, 1),
            seed=self._seed,
            options=self._options,
            versions=_versions(),
            machine=self._machine,
            proofs=self._proofs,
            books=books,
        )
        folder.mkdir(parents=True, exist_ok=True)
        encoded = msgspec.json.format(msgspec.json.encode(findings), indent=2)
        (folder / "report.json").write_bytes(encoded + b"\n")
        (folder / "report.html").write_text(page(findings), "utf-8")
        return passed

    def _verify(self) -> Books:
        ledgers = requests = transfers = 0
        violations: list[str] = []
        for path in sorted(self._place.rglob("ledger.db")):
            name = path.relative_to(self._place)
            if name.parts[0] in SPOILT:
                continue
            ledgers += 1
            try:
                verified = verify_file(str(path))
            except LedgerUnusable as error:
                violations.append(self._clean(f"{name}: {error}"))
                continue
            requests += verified.checked_requests
            transfers += verified.checked_transfers
            violations += [self._clean(f"{name}: {violation}") for violation in verified.violations]
        return Books(ledgers, requests, transfers, violations)

    def _clean(self, text: str) -> str:
        """Without names and paths of this machine."""
        for path, name in ((self._place.absolute(), "…"), (ROOT, "."), (Path.home(), "~")):
            text = text.replace(str(path), name) if path != Path("/") else text
        return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "-", text)


def page(findings: Findings) -> str:
    """As HTML; the figures of a proof open when it is clicked, and are open where it failed."""
    verdict = '<b class="good">all passed</b>' if findings.passed else '<b class="bad">FAILED</b>'
    options = {name: value for name, value in findings.options.items() if value not in (None, False)}
    facts = _table({**findings.machine, "versions": _line(findings.versions), "asked for": _line(options)})
    books = findings.books
    last = Proof(
        name="books",
        title=f"every ledger that is left, verified once more ({books.ledgers})",
        seconds=0.0,
        figures={"checked": f"{books.requests} requests, {books.transfers} transfers"},
        violations=books.violations,
    )
    proofs = "".join(_proof(proof) for proof in [*findings.proofs, last])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>RouterX: torture</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><h1>Torture: {verdict}</h1>\n"
        f"<p>{len(findings.proofs)} proofs in {findings.seconds:.0f} s, seed {findings.seed}, {findings.began}</p>\n"
        f"{proofs}<details><summary>Machine and versions</summary>{facts}</details>\n</body></html>\n"
    )


def _proof(proof: Proof) -> str:
    bad = bool(proof.violations)
    mark = f'<b class="{"bad" if bad else "good"}">{"✗" if bad else "✓"}</b>'
    wrong = "".join(f'<p class="bad">{html.escape(violation)}</p>' for violation in proof.violations)
    return (
        f"<details{' open' if bad else ''}><summary>{mark} {html.escape(proof.title)} "
        f"<span>{f'{proof.seconds:.1f} s' if proof.seconds else ''}</span></summary>"
        f"{wrong}{_table(proof.figures)}</details>\n"
    )


def _table(rows: dict[str, str]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _line(values: dict[str, str] | Options) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {**found, "Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}


def _machine() -> dict[str, str]:
    """What the figures depend on."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    return {
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "processors": f"{usable} of {os.cpu_count()}",
        "memory": f"{memory_bytes / 2**30:.1f} GiB",
        "busy besides": f"{os.getloadavg()[0]:.1f} processes",
    }
