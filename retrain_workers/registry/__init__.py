"""What becomes of published versions: lists, lineage, garbage collection, the MLflow mirror."""
