-- Version 3: aliases beside `champion`, the collection of artifacts, and what waits to be mirrored.

ALTER TABLE registry_events DROP CONSTRAINT registry_events_event_check;
ALTER TABLE registry_events ADD CONSTRAINT registry_events_event_check CHECK (
    event IN (
        'registered', 'adopted', 'challenging', 'withdrawn', 'promoted', 'replaced', 'collecting', 'collected'
    )
);

CREATE INDEX registry_events_of_model ON registry_events (model, id);

-- An artifact goes once, however many workers find that it may.
CREATE UNIQUE INDEX registry_events_collection ON registry_events (model, version, event)
WHERE event IN ('collecting', 'collected');

INSERT INTO model_aliases (model, alias, version, epoch)
SELECT model, 'challenger', canary, epoch FROM rollouts WHERE phase IN ('preparing', 'ramping', 'paused');

INSERT INTO model_aliases (model, alias, version, epoch)
SELECT DISTINCT ON (model) model, 'previous', detail ->> 'replaced', (detail ->> 'epoch')::bigint
FROM registry_events WHERE event = 'promoted' ORDER BY model, id DESC;

-- Registry events that no mirror has taken yet: written with the event, deleted once it is delivered.
CREATE TABLE registry_outbox (
    event_id bigint PRIMARY KEY REFERENCES registry_events,
    model text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(), -- until then held by a worker, or waiting after a failure
    error text
);

CREATE INDEX registry_outbox_of_model ON registry_outbox (model, event_id);
