"""Kubeflow Trainer, JobSet and Kueue themselves, built from their Go modules, for test clusters."""

from crucible.testing.controllers.install import install_kueue, install_trainer

__all__ = ["install_kueue", "install_trainer"]
