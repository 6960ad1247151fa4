"""Sepsis treatment from logged steps: data, learners, report."""
