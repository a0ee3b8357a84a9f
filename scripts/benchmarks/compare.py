"""RouterX with everything on beside a bare aiohttp pass-through proxy: interleaved, same core, same provider stub.

Gateway and proxy are pinned to one core, load and stub to another. Every round measures both, so drift of the machine
hits both; the figure to read is the median of the rounds' ratios. Charges are durable (synchronous=full) throughout.
"""

import argparse
import hashlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from load import Result, run

HERE = Path(__file__).parent
KEY = "bench_key_0123456789"
CONFIG = """\
version: 1
server: {{listen: "127.0.0.1:{port}", data_dir: {data}}}
providers:
  stub: {{dialect: openai, base_url: "http://127.0.0.1:{upstream}/v1", keys: [upstream-key]}}
models:
  bench-model:
    endpoints: [{{provider: stub, model: bench-model, price: {{input: "2.5", output: "10"}}}}]
plans:
  bench: {{billing: prepaid}}
tenants:
  bench: {{plan: bench, opening_balance: "$1000000", keys: ["sha256:{digest}"]}}
"""


def cores() -> tuple[set[int], set[int]]:
    """(gateway's, load's)."""
    free = sorted(os.sched_getaffinity(0))
    return ({free[0]}, {free[-1]})


@contextmanager
def process(arguments: list[str], core: set[int], stdout: int | IO[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(arguments, text=True, stdout=stdout, stderr=None if stdout == subprocess.PIPE else stdout)
    os.sched_setaffinity(child.pid, core)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)


def request(port: int, *, stream: bool) -> bytes:
    text = "Tell me about the history of the quick brown fox. " * 8
    flag = '"stream":true,' if stream else ""
    body = f'{{"model":"bench-model",{flag}"messages":[{{"role":"user","content":"{text}"}}]}}'
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def printed_port(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    return int(child.stdout.readline())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(port: int, child: subprocess.Popen[str]) -> None:
    for _ in range(200):
        if child.poll() is not None:
            raise SystemExit(f"the gateway ended with exit code {child.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the gateway did not become ready")


def row(name: str, results: list[Result]) -> str:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    return (
        f"  {name:<10} {median([r.per_second for r in results]):>9.0f} /s"
        f"   p50 {median([r.percentile_ms(0.50) for r in results]):>7.2f} ms"
        f"   p99 {median([r.percentile_ms(0.99) for r in results]):>7.2f} ms"
        f"   failed {sum(r.failed for r in results)}"
    )


def measure(ports: dict[str, int], options: argparse.Namespace, *, stream: bool) -> None:
    connections = options.streams if stream else options.connections
    results: dict[str, list[Result]] = {name: [] for name in ports}
    for round_no in range(options.rounds + 1):
        order = list(ports) if round_no % 2 else list(reversed(ports))
        for name in order:
            seconds = options.seconds if round_no else min(1.0, options.seconds)
            asked = request(ports[name], stream=stream)
            result = run(ports[name], asked, connections=connections, seconds=seconds)
            if round_no:  # The first round warms up.
                results[name].append(result)
    pairs = zip(results["routerx"], results["bare"], strict=True)
    ratios = sorted(ours.per_second / bare.per_second for ours, bare in pairs)
    sys.stdout.write(f"{'streamed' if stream else 'buffered'}, {connections} connections\n")
    for name, found in results.items():
        sys.stdout.write(row(name, found) + "\n")
    sys.stdout.write(
        f"  ratio      {statistics.median(ratios):>9.2f} median of {len(ratios)} rounds"
        f" (min {ratios[0]:.2f}, max {ratios[-1]:.2f})\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=64, help="for buffered answers")
    parser.add_argument("--streams", type=int, default=320, help="connections for streamed answers, which take longer")
    parser.add_argument("--only", choices=["buffered", "streamed"])
    options = parser.parse_args()
    gateway_core, load_core = cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="routerx-bench-")))
        stub = stack.enter_context(process([sys.executable, str(HERE / "upstream.py")], load_core, subprocess.PIPE))
        upstream = printed_port(stub)
        bare = stack.enter_context(
            process(
                [sys.executable, str(HERE / "baseline.py"), f"http://127.0.0.1:{upstream}"],
                gateway_core,
                subprocess.PIPE,
            )
        )
        port = free_port()
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        config = folder / "etc" / "routerx.yaml"  # Apart from what the run writes: its folder is watched.
        config.parent.mkdir()
        config.write_text(CONFIG.format(port=port, data=folder / "data", upstream=upstream, digest=digest))
        config.chmod(0o600)
        log = stack.enter_context((folder / "log.jsonl").open("w"))
        ours = stack.enter_context(
            process([sys.executable, "-m", "routerx", "serve", "-c", str(config)], gateway_core, log)
        )
        wait_ready(port, ours)
        os.sched_setaffinity(0, load_core)
        ports = {"routerx": port, "bare": printed_port(bare)}
        for stream in (False, True):
            if options.only in (None, "streamed" if stream else "buffered"):
                measure(ports, options, stream=stream)


if __name__ == "__main__":
    main()
