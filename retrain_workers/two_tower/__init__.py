"""The two-tower network: its examples, its layers, its training and its files."""
