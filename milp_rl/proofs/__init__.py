"""Proofs that an answer is optimal, and the check of one, which needs no solver."""

from milp_rl.proofs.check import Verdict, check
from milp_rl.proofs.proof import Proof

__all__ = ["Proof", "Verdict", "check"]
