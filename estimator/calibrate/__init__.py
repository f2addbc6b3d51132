"""Two real steps on the device that is here: what only a real process shows, as a profile that others can use."""

from __future__ import annotations

from estimator.calibrate.profile import calibrated_profile, profile_text, write_profile
from estimator.calibrate.records import Calibration, Compared, Plan, Run
from estimator.calibrate.run import calibrate

__all__ = [
    "Calibration",
    "Compared",
    "Plan",
    "Run",
    "calibrate",
    "calibrated_profile",
    "profile_text",
    "write_profile",
]
