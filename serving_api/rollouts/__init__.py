"""How a candidate reaches people: plans, transitions, decisions, the controller, and what operators may ask of it."""
