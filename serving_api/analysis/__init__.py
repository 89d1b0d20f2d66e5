"""What a rollout is judged by: pure functions from counts to evidence and verdicts; `verdicts` is their order."""
