"""The language-model scorer of (history, candidate): prompts, packing, a tiny base, adapters, training and scores."""
