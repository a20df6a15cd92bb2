"""Our container images for tests, built at most once for the same files."""

from crucible.testing.images.builds import ImageArchive, built_image, storage_options
from crucible.testing.images.containerd import seed_containerd
from crucible.testing.images.machine import MachineUnfit, check_machine

__all__ = [
    "ImageArchive",
    "MachineUnfit",
    "built_image",
    "check_machine",
    "seed_containerd",
    "storage_options",
]
