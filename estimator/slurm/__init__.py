"""Slurm: what a cluster has, what of a job fits where, the lines of a batch script, and the script that is there."""

from __future__ import annotations

from estimator.slurm.cluster import Cluster, NodeGroup, Partition, read_cluster
from estimator.slurm.inside import Allocation, allocation_here
from estimator.slurm.offers import Offer, make_offers, sbatch_lines
from estimator.slurm.script import Script, read_script
from estimator.slurm.verdict import ScriptVerdict, judge

__all__ = [
    "Allocation",
    "Cluster",
    "NodeGroup",
    "Offer",
    "Partition",
    "Script",
    "ScriptVerdict",
    "allocation_here",
    "judge",
    "make_offers",
    "read_cluster",
    "read_script",
    "sbatch_lines",
]
