-- Version 2: what re-ranking asks of a catalogue entry.

ALTER TABLE items
    ADD COLUMN price double precision,
    ADD COLUMN min_age double precision,
    ADD COLUMN available_ms bigint;
