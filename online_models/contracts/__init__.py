"""Wire and storage formats that the processes share; standard library and msgspec only."""
