-- Version 5: kinds of rollouts with plans of their own, counts by variant and by group of users, operators and their requests.

ALTER TABLE rollouts
    ADD COLUMN kind text NOT NULL DEFAULT 'canary' CHECK (kind IN ('canary', 'ab', 'aa', 'bandit', 'rollback')),
    ADD COLUMN plan jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN arms jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN automatic boolean NOT NULL DEFAULT true; -- begun by the controller

ALTER TABLE rollouts DROP CONSTRAINT rollouts_phase_check;
ALTER TABLE rollouts ADD CONSTRAINT rollouts_phase_check CHECK (
    phase IN (
        'preparing', 'ramping', 'paused', 'promoted', 'rolled_back', 'aborted', 'superseded', 'concluded'
    )
);

-- An operator may try a version again, and the champion against itself; the controller begins each canary once.
DROP INDEX rollouts_one_per_canary;
CREATE UNIQUE INDEX rollouts_one_canary_by_itself ON rollouts (model, canary) WHERE automatic;

CREATE INDEX rollouts_of_model ON rollouts (model, id);

-- One version may be both arms: the champion against itself.
ALTER TABLE model_metrics
    ADD COLUMN variant text NOT NULL DEFAULT '',
    ADD COLUMN stage_users bigint NOT NULL DEFAULT 0,
    ADD COLUMN first_items bigint NOT NULL DEFAULT 0,
    ADD COLUMN repeats bigint NOT NULL DEFAULT 0;

UPDATE model_metrics SET variant =
    CASE model_metrics.version WHEN rollouts.canary THEN 'canary' WHEN rollouts.stable THEN 'stable' ELSE 'fallback' END
FROM rollouts WHERE rollouts.id = model_metrics.rollout_id;

ALTER TABLE model_metrics DROP CONSTRAINT model_metrics_pkey;
ALTER TABLE model_metrics ADD PRIMARY KEY (model, version, rollout_id, stage, variant, window_start_ms);

CREATE INDEX model_metrics_by_time ON model_metrics (model, window_end_ms);

CREATE TABLE grouped_metrics (
    model text NOT NULL,
    version text NOT NULL,
    rollout_id bigint NOT NULL,
    stage integer NOT NULL,
    variant text NOT NULL,
    since_ms bigint NOT NULL,
    counts bytea NOT NULL CHECK (octet_length(counts) = 4 * 4 * 128), -- `GroupedCounts.counts`
    PRIMARY KEY (rollout_id, stage, variant, version, since_ms)
);

CREATE TABLE shadow_metrics (
    model text NOT NULL,
    version text NOT NULL,
    since_ms bigint NOT NULL,
    counts bytea NOT NULL CHECK (octet_length(counts) = 4 * 2 * 20 * 61), -- `ShadowCounts.counts`
    PRIMARY KEY (model, version, since_ms)
);

ALTER TABLE api_keys ADD COLUMN name text NOT NULL DEFAULT '';

-- What an operator's request with an idempotency key has done: asked again, it is told again.
CREATE TABLE operator_requests (
    actor text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL, -- SHA-256 of what was asked
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, key)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_requests
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
