"""Check random programs for some time: `python -m tests.fuzz --seconds 600 --seed 0`.

A program that fails is made as small as it gets, and printed with what went wrong.
"""

import argparse
import itertools
import time
import traceback

import hypothesis

from .oracles import Skipped, check
from .programs import Program, programs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="stop after so long (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round of twenty programs (default: 0)")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    counts = {"compared": 0, "refused by Linen": 0}

    def one(program: Program) -> None:
        if time.monotonic() > end:
            return
        try:
            check(program)
            counts["compared"] += 1
        except Skipped:
            counts["refused by Linen"] += 1

    for seed in itertools.count(options.seed):
        if time.monotonic() > end:
            break
        settings = hypothesis.settings(
            max_examples=20, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        try:
            hypothesis.seed(seed)(settings(hypothesis.given(programs)(one)))()
        except Exception:
            traceback.print_exc()
            print(f"seed {seed}: failed, after {counts}")
            return 1
        print(f"seed {seed}: {counts}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
