"""Subcommands of operators: `rollout ...` as a client of the API, and `keys ...` on the stores."""
