"""Drift detectors, one per file; pure state machines with `update`, `drift_detected` and `snapshot`."""
