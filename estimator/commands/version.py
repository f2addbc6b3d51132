"""`batch-estimator version`: this program and what its numbers depend on."""

from __future__ import annotations

from estimator import __version__
from estimator.commands import options as o
from estimator.commands.run import FITS, guarded, write_json

_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "peft", "fvcore", "nvidia-ml-py", "nvidia-cudnn-cu13")


@guarded
def version(as_json: o.AsJson = False) -> int:
    """Print this version and those the numbers depend on."""
    import platform
    from importlib import metadata

    versions = {"batch-estimator": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        # Read from what pip recorded: importing torch would take seconds.
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "not installed"
    if as_json:
        write_json(dict(versions))
    else:
        from estimator.report.page import write_out

        write_out("".join(f"{name} {value}\n" for name, value in versions.items()))
    return FITS
