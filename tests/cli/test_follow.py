"""`logs tail -f` in a process of its own: it shows what settles, waits for a server and comes back to one."""

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from tests.cli.support import Control, record, routerx_process, running

FOLLOW = ("logs", "tail", "-f", "--json")


def test_new_requests_are_shown_until_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.settle(record(1))
        with routerx_process("--data-dir", str(tmp_path), *FOLLOW) as process:
            shown = [json.loads(process.stdout.readline())["id"]]
            server.wait_for_follower()
            server.settle(record(2), record(3))
            shown += [json.loads(process.stdout.readline())["id"] for _ in range(2)]
            process.send_signal(signal.SIGINT)

            assert process.wait(10) == 130
            assert shown == ["req_0001", "req_0002", "req_0003"]
            assert process.stderr.read().strip() == ""


def test_a_restarted_server_is_found_again_and_nothing_is_missed_or_shown_twice(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with running(tmp_path) as server:
            server.settle(record(1))
            process = stack.enter_context(routerx_process("--data-dir", str(tmp_path), *FOLLOW))
            shown = [json.loads(process.stdout.readline())["id"]]
            server.wait_for_follower()
            server.settle(record(3), record(2))  # The longer one began earlier.
            shown += [json.loads(process.stdout.readline())["id"] for _ in range(2)]
        again = Control()
        again.ledger.records += [record(n) for n in range(1, 5)]  # The fourth settled while nobody listened.
        assert "Waiting for it" in process.stderr.readline()
        with running(tmp_path, again) as server:
            shown.append(json.loads(process.stdout.readline())["id"])
            server.wait_for_follower()
            server.settle(record(5))
            shown.append(json.loads(process.stdout.readline())["id"])

    assert shown == ["req_0001", "req_0003", "req_0002", "req_0004", "req_0005"]
