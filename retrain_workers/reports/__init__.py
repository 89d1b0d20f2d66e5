"""Models compared for people: tables, plots, head to head."""
