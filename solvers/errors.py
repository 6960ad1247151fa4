"""Errors of solvers."""


class CertificationError(RuntimeError):
    """A solver's answer contradicts the network or the space, also when solved more tightly."""


class SolverUnavailableError(RuntimeError):
    """A solver is not installed, has no licence, or its licence is too small for the model."""
