"""The training process: leases a job, trains, validates, and publishes a candidate version."""
