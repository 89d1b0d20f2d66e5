"""Whether a candidate may replace the champion: metrics on later events, paired intervals, calibration, the gate."""
