"""``make bench``: run benchmarks, print the table, exit 1 when a limit is not kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence

from bench import measure, suite
from bench.instance import Instance
from support import sandbox


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(prog="bench", description="Benchmarks of orch, with crun as the peer.")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--only", metavar="NAME,...", help="run these benchmarks only")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that they work")
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    options = parser.parse_args(arguments)
    if options.list:
        for name, function in suite.BENCHMARKS.items():
            print(f"{name:10} {function.__doc__}")
        return 0
    names = options.only.split(",") if options.only else list(suite.BENCHMARKS)
    if unknown := [name for name in names if name not in suite.BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)} (there are: {', '.join(suite.BENCHMARKS)})")
    if os.geteuid() != 0:
        parser.error("the benchmarks make containers, which needs root")
    sandbox.enter()
    scale = suite.QUICK if options.quick else suite.FULL
    results: list[measure.Result] = []
    for name in names:
        began = time.monotonic()
        with Instance() as instance:
            results += suite.BENCHMARKS[name](instance, scale)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(measure.table(results))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                {
                    "time": time.time(),
                    "host": {"kernel": platform.release(), "processors": os.cpu_count()},
                    "quick": options.quick,
                    "results": [result.to_json() for result in results],
                },
                file,
                indent=1,
            )
    return 1 if any(result.ok is False for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
