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


def test_a_restarted_server_is_found_again_and_nothing_is_missed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with running(tmp_path) as server:
            server.settle(record(1))
            process = stack.enter_context(routerx_process("--data-dir", str(tmp_path), *FOLLOW))
            assert json.loads(process.stdout.readline())["id"] == "req_0001"
            server.wait_for_follower()
        again = Control()
        again.ledger.records += [record(1), record(2)]  # One settled while nobody listened.
        assert "Waiting for it" in process.stderr.readline()
        with running(tmp_path, again) as server:
            assert json.loads(process.stdout.readline())["id"] == "req_0002"
            server.wait_for_follower()
            server.settle(record(3))
            assert json.loads(process.stdout.readline())["id"] == "req_0003"
