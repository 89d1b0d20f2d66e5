-- Version 4: what a job trains, how far it is, what it was expected to cost and has cost, and what the gate said.

ALTER TABLE retrain_jobs
    ADD COLUMN kind text GENERATED ALWAYS AS (substr(payload ->> 'type', length('train_') + 1)) STORED,
    ADD COLUMN level text NOT NULL
        GENERATED ALWAYS AS (coalesce(payload ->> 'start', payload ->> 'profile', 'cold')) STORED,
    ADD COLUMN progress jsonb,
    ADD COLUMN estimate jsonb,
    ADD COLUMN cost jsonb,
    ADD COLUMN report jsonb;

-- A long training of an adapter does not keep the recommender from being retrained.
DROP INDEX retrain_jobs_one_open_per_model;

CREATE UNIQUE INDEX retrain_jobs_one_open_per_component ON retrain_jobs (model, (payload ->> 'type' = 'train_lora'))
WHERE state IN ('queued', 'running');

CREATE INDEX retrain_jobs_open ON retrain_jobs (id) WHERE state IN ('queued', 'running');

CREATE INDEX retrain_jobs_trained ON retrain_jobs (model, kind, level, id) WHERE state IN ('done', 'rejected');
