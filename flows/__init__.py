"""The stream process: a Bytewax dataflow from the event log to vectors, outcomes, drift and retrain jobs."""
