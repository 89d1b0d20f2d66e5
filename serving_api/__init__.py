"""The serving process: the recommendation API and the rollout controller."""
