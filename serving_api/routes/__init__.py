"""One module per resource; handlers do no more than parse, call, and encode."""
