"""What is promised in docs/ exists, and the reverse: keys, commands, headers, metrics, error codes, links."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import click

import routerx
from routerx.cli import main
from routerx.config.schema import config_keys
from routerx.domain.failure import RULES
from routerx.errors import OperatorError, RouterXError
from routerx.telemetry.metrics import METRICS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

NOT_A_HEADER = {"x-routerx-unit"}
"""An annotation in the JSON Schema."""


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def coded(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row but headings and rulers."""
    heading = True
    for line in text.splitlines():
        if not line.startswith("|"):
            heading = True
        elif not heading and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        else:
            heading = False


def unlisted(real: set[str], documented: set[str]) -> str:
    return f"not documented: {sorted(real - documented)}; documented and not there: {sorted(documented - real)}"


# --- configuration -------------------------------------------------------------------------------------------------


def test_every_configuration_key_is_documented_and_every_documented_key_exists():
    documented = {key for cells in rows(page("configuration.md")) for key in coded(cells[0]) if is_key(key)}
    real = set(config_keys())
    assert real == documented, unlisted(real, documented)


def is_key(text: str) -> bool:
    return re.fullmatch(r"[a-z][a-z_0-9]*((\.<name>|\[\])*\.[a-z_0-9]+)*", text) is not None


# --- commands ------------------------------------------------------------------------------------------------------


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, f"{path} {name}")
    else:
        yield path, command


def options(command: click.Command) -> set[str]:
    names = (name for option in command.params for name in (*option.opts, *option.secondary_opts))
    return {name for name in names if name.startswith("--")}


def test_every_command_is_documented_and_every_documented_command_exists():
    text = page("cli.md")
    real = {path for path, _ in commands(main, "routerx")}
    assert not {path for path in real if path not in text}
    for words in re.findall(r"`(routerx(?: [a-z-]+)*)", text):
        assert leads_to_a_command(words, real), f"docs/cli.md names {words!r}, which is no command"


def leads_to_a_command(words: str, real: set[str]) -> bool:
    """A command, a group of commands, or a command with arguments."""
    known = any(path == words or path.startswith(words + " ") for path in real)
    return known or any(words.startswith(path + " ") for path in real)


def test_every_option_is_documented_and_every_documented_option_exists():
    real = {"--help"} | options(main)
    real |= {option for _, command in commands(main, "routerx") for option in options(command)}
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page("cli.md")))
    assert real == documented, unlisted(real, documented)


# --- headers -------------------------------------------------------------------------------------------------------


def headers_in_code() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "routerx").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in prose and isinstance(node.value, str | bytes):
                text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                found.update(re.findall(r"x-routerx-[a-z-]*[a-z]", text.lower()))
    return found - NOT_A_HEADER


def test_every_header_of_ours_is_documented_and_every_documented_header_exists():
    documented = set(re.findall(r"x-routerx-[a-z-]*[a-z]", page("api.md").lower()))
    real = headers_in_code()
    assert real == documented, unlisted(real, documented)
    assert real


# --- metrics -------------------------------------------------------------------------------------------------------


def test_every_metric_is_documented_with_its_type_and_labels_and_the_reverse():
    documented = {
        (name, cells[1], tuple(re.findall(r"`(\w+)`", cells[2])))
        for cells in rows(page("metrics.md"))
        if len(cells) >= 3
        for name in coded(cells[0])
        if name.startswith("routerx_")
    }
    real = {
        (metric.name.value if hasattr(metric.name, "value") else metric.name, metric.kind, metric.labels)
        for metric in METRICS
    }
    assert real == documented


# --- errors --------------------------------------------------------------------------------------------------------


def error_classes(kind: type[RouterXError]) -> Iterator[type[RouterXError]]:
    if not issubclass(kind, OperatorError):
        yield kind
        for child in kind.__subclasses__():
            yield from error_classes(child)


def error_codes() -> set[tuple[str, str]]:
    for module in pkgutil.walk_packages(routerx.__path__, "routerx."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # Classes that only group others have the code of their base.
    named = {kind for kind in error_classes(RouterXError) if "code" in vars(kind)}
    real = {(kind.code, str(kind.status)) for kind in named}
    return real | {(rule.code, str(rule.status or "as the provider's")) for rule in RULES.values()}


def test_every_error_code_is_documented_with_its_status_and_the_reverse():
    documented = {(code, cells[1]) for cells in rows(page("errors.md")) for code in coded(cells[0])}
    real = error_codes()
    assert real == documented, unlisted({str(pair) for pair in real}, {str(pair) for pair in documented})


# --- pages ---------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def test_every_page_is_listed():
    index = page("README.md")
    missing = [path.name for path in DOCS.glob("*.md") if path.name != "README.md" and f"({path.name})" not in index]
    assert not missing


def test_every_link_within_the_repository_leads_somewhere():
    broken = []
    for path in pages():
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", path.read_text("utf-8")):
            file, _, anchor = target.partition("#")
            destination = (path.parent / file).resolve()
            if not destination.exists():
                broken.append(f"{path.name}: {target}")
            elif anchor and anchor not in anchors(destination):
                broken.append(f"{path.name}: {target} has no such heading")
    assert not broken, "\n".join(broken)


def anchors(path: Path) -> set[str]:
    """Heading ids as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", path.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- the readers can fail ------------------------------------------------------------------------------------------


def test_tables_keys_and_anchors_are_read_as_written(tmp_path: Path):
    text = "| key | is |\n|---|---|\n| `a.<name>.b[].c` | one \\| two |\n\n| x |\n|---|\n| y |\n"
    assert list(rows(text)) == [["`a.<name>.b[].c`", "one \\| two"], ["y"]]
    assert is_key("a.<name>.b[].c")
    assert is_key("providers")
    assert not is_key("5m")
    assert not is_key("${env:X}")
    (tmp_path / "a.md").write_text("# What's it, then?\n")
    assert anchors(tmp_path / "a.md") == {"whats-it-then"}


def test_a_metric_a_header_and_a_code_that_nobody_documented_would_be_missed():
    assert "x-routerx-provider" in headers_in_code()
    assert ("request_too_large", "413") in error_codes()
    assert ("upstream_rejected", "as the provider's") in error_codes()
    paths = {path for path, _ in commands(main, "routerx")}
    assert "routerx tenants topup" in paths
    assert leads_to_a_command("routerx tenants topup demo", paths)
    assert leads_to_a_command("routerx tenants", paths)
    assert not leads_to_a_command("routerx tenants to", paths)
