"""Each module can be imported alone, first, with every warning an error, and starts nothing by that.

A process that has loaded the third parties but nothing of RouterX forks a child per module: an import that works only
because another module came first, a cycle among them, fails here.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

FORKER = """
import json, os, sys, threading, warnings

for name in ("aiohttp.web", "aiosqlite", "click", "msgspec", "prometheus_client", "pydantic_settings", "rich.table",
             "uvloop", "watchfiles", "yaml"):
    __import__(name)
warnings.simplefilter("error")
assert not any(name.partition(".")[0] == "routerx" for name in sys.modules)
modules, workers, failed, running = json.loads(sys.argv[1]), os.cpu_count() or 1, [], {}

def reap():
    pid, status = os.wait()
    if status:
        failed.append(running[pid])
    del running[pid]

for module in modules:
    if len(running) >= workers:
        reap()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            __import__(module)
            assert threading.active_count() == 1, "importing must not start a thread"
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{module}: {type(error).__name__}: {error}\\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    running[pid] = module
while running:
    reap()
sys.exit(1 if failed else 0)
"""


def import_each(modules: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FORKER, json.dumps(modules)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_each_module_can_be_imported_alone():
    paths = sorted((ROOT / "routerx").rglob("*.py"))
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    modules = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    done = import_each(modules, ROOT)
    assert done.returncode == 0, done.stderr
    assert len(modules) > 30


def test_a_cycle_a_warning_and_a_thread_are_found(tmp_path: Path):
    planted = {
        "good": "import json",
        "cycle_a": "from cycle_b import b\na = 1",
        "cycle_b": "from cycle_a import a\nb = 1",
        "warns": "import warnings\nwarnings.warn('old', DeprecationWarning)",
        "starts": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    }
    for name, text in planted.items():
        (tmp_path / f"{name}.py").write_text(text)
    done = import_each(sorted(planted), tmp_path)
    assert done.returncode == 1
    found = {line.partition(":")[0] for line in done.stderr.splitlines()}
    assert found == {"cycle_a", "cycle_b", "warns", "starts"}
