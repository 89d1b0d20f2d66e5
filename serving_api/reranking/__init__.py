"""From ranked candidates to the list that is shown: pure functions over columns; `lists.rerank` is their order."""
