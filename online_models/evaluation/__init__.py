"""Test-then-train over a recorded log: the learner as it is shipped, the baselines beside it, and what they are measured by."""
