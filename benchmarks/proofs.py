"""Size and time of proofs that answers are optimal, over trained networks: `proofs.csv`.

Run from the root of a checkout, with one thread: `OMP_NUM_THREADS=1 python benchmarks/proofs.py`.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from problems import DOMAINS, trained

import milp_rl as mr
from milp_rl.proofs import check

N_STATES = 2
SIZES = [(20, 5, (16, 32)), (40, 10, (16, 32)), (100, 20, (16, 32)), (20, 5, (64, 64))]
RATIONAL = 20  # leaves of 20 arms, up to which proofs are checked in rational numbers too


def main() -> None:
    """Solve, prove and check; write a row for each problem."""
    rows = []
    for domain in DOMAINS:
        for n_arms, budget, hidden in SIZES:
            if (domain, n_arms) == ("path", 100):
                continue
            problem = trained(domain, n_arms, budget, hidden)
            solver = mr.ArgmaxSolver(problem.network, problem.space, solver="branch_and_bound")
            solver.solve(problem.warm_up[0])
            times, leaves, sizes, exact = [], [], [], []
            for state in problem.states[:N_STATES]:
                began = time.process_time()
                result = solver.solve(state)
                solved = time.process_time()
                proof = solver.prove(state, result)
                proven = time.process_time()
                verdict = check(problem.network, problem.space, state, proof)
                checked = time.process_time()
                if not verdict.verified:
                    raise RuntimeError(f"{problem.name}: {verdict}")
                times.append((solved - began, proven - solved, checked - proven))
                leaves.append(len(proof.reasons))
                sizes.append(len(proof.to_bytes()))
                if leaves[-1] <= RATIONAL and n_arms == 20 and domain != "path":
                    began = time.process_time()
                    verdict = check(problem.network, problem.space, state, proof, exact=True)
                    if not verdict.verified:
                        raise RuntimeError(f"{problem.name}, in rational numbers: {verdict}")
                    exact.append(time.process_time() - began)
            solve, prove, checking = 1e3 * np.mean(times, axis=0)
            rows.append(
                {
                    "problem": problem.name,
                    "states": N_STATES,
                    "leaves_max": max(leaves),
                    "kilobytes_max": round(max(sizes) / 1e3, 1),
                    "solve_ms": round(solve, 1),
                    "prove_ms": round(prove, 1),
                    "check_ms": round(checking, 1),
                    "rational_ms": round(1e3 * float(np.mean(exact)), 1) if exact else None,
                    "rational_states": len(exact),
                }
            )
    pd.DataFrame(rows).to_csv(Path(__file__).with_name("proofs.csv"), index=False)


if __name__ == "__main__":
    warnings.simplefilter("ignore", mr.ScalingWarning)
    main()
