-- The tables of Penstock, version 1; `postgres.migrate` runs this file once, in one transaction.
--
-- * Event time is `*_ms bigint`, epoch milliseconds as on the wire: no rounding, no time zone, half the cost of a
--   conversion per row. What the database itself witnessed is `*_at timestamptz`. Two types, so that event time and
--   wall time cannot be compared by mistake.
-- * Event rows have no foreign keys: an event may come before its item is in the catalogue, and a check per row would
--   double the cost of ingestion. They have no index but the key either: training reads whole tables.
-- * `*_events` and `model_versions` take INSERT only; a trigger refuses the rest.

CREATE SEQUENCE lease_token;
CREATE SEQUENCE epoch;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP;
END
$$;

-- The stream: who, what, and what happened.

CREATE TABLE users (
    user_id text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE items (
    domain text NOT NULL,
    item_id text NOT NULL,
    title text NOT NULL,
    categories text[] NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, item_id)
);

CREATE TABLE watch_history (
    event_id uuid PRIMARY KEY,
    ts_ms bigint NOT NULL,
    user_id text NOT NULL,
    item_id text NOT NULL,
    domain text NOT NULL,
    value double precision, -- seconds watched
    request_id text,
    position integer,
    model_version text,
    rollout_id bigint,
    propensity double precision,
    features jsonb
);

CREATE TABLE purchase_history (
    event_id uuid PRIMARY KEY,
    ts_ms bigint NOT NULL,
    user_id text NOT NULL,
    item_id text NOT NULL,
    domain text NOT NULL,
    value double precision, -- amount
    request_id text,
    position integer,
    model_version text,
    rollout_id bigint,
    propensity double precision,
    features jsonb
);

CREATE TABLE impressions (
    event_id uuid PRIMARY KEY,
    ts_ms bigint NOT NULL,
    user_id text NOT NULL,
    item_id text NOT NULL,
    domain text NOT NULL,
    value double precision,
    request_id text,
    position integer,
    model_version text,
    rollout_id bigint,
    propensity double precision,
    features jsonb
);

CREATE TABLE feedback (
    event_id uuid PRIMARY KEY,
    ts_ms bigint NOT NULL,
    type text NOT NULL CHECK (type IN ('click', 'rating', 'skip')),
    user_id text NOT NULL,
    item_id text NOT NULL,
    domain text NOT NULL,
    value double precision, -- the rating
    request_id text,
    position integer,
    model_version text,
    rollout_id bigint,
    propensity double precision,
    features jsonb
);

-- What the flow found out.

CREATE TABLE window_reports (
    model text NOT NULL,
    window_start_ms bigint NOT NULL,
    window_end_ms bigint NOT NULL,
    report jsonb NOT NULL,
    PRIMARY KEY (model, window_start_ms, window_end_ms)
);

-- One row per declared feature of every window, as `ports.FeatureWindowRow` says. An array is written whole and read whole.
CREATE TABLE feature_windows (
    model text NOT NULL,
    window_start_ms bigint NOT NULL,
    window_end_ms bigint NOT NULL,
    feature text NOT NULL,
    kind text NOT NULL,
    champion text,
    events bigint NOT NULL,
    missing bigint NOT NULL,
    verdict text NOT NULL,
    why text NOT NULL,
    mean double precision,
    sd double precision,
    minimum double precision,
    maximum double precision,
    quantiles double precision[] NOT NULL,
    cardinality double precision,
    new_share double precision,
    heavy_fingerprints bigint[] NOT NULL,
    heavy_counts bigint[] NOT NULL,
    statistics jsonb NOT NULL,
    p_value double precision,
    effect double precision,
    detectable double precision,
    information double precision, -- nats
    rank integer,
    bins text[] NOT NULL,
    counts bigint[] NOT NULL,
    reference bigint[] NOT NULL,
    PRIMARY KEY (model, window_end_ms, window_start_ms, feature)
);

CREATE TABLE feature_words (
    model text NOT NULL,
    feature text NOT NULL,
    fingerprint bigint NOT NULL, -- 32 bits, unsigned
    text text NOT NULL,
    PRIMARY KEY (model, feature, fingerprint)
);

CREATE TABLE model_metrics (
    model text NOT NULL,
    version text NOT NULL,
    rollout_id bigint NOT NULL, -- 0 outside a rollout
    stage integer NOT NULL,
    window_start_ms bigint NOT NULL,
    window_end_ms bigint NOT NULL,
    users bigint NOT NULL,
    successes bigint NOT NULL,
    requests bigint NOT NULL,
    hits bigint NOT NULL,
    impressions bigint NOT NULL,
    clicks bigint NOT NULL,
    PRIMARY KEY (model, version, rollout_id, stage, window_start_ms)
);

CREATE INDEX model_metrics_of_rollout ON model_metrics (rollout_id, version, stage);

CREATE TABLE drift_events (
    id text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('drift', 'trigger', 'suppressed')),
    model text NOT NULL,
    detector text NOT NULL,
    feature text NOT NULL,
    window_start_ms bigint NOT NULL,
    window_end_ms bigint NOT NULL,
    statistic double precision NOT NULL,
    threshold double precision NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX drift_events_by_window ON drift_events (model, window_end_ms);

-- Retraining.

CREATE TABLE retrain_jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model text NOT NULL,
    trigger_id text NOT NULL UNIQUE,
    reason text NOT NULL,
    payload jsonb NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'rejected', 'dead')),
    not_before timestamptz NOT NULL DEFAULT now(),
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 3,
    lease_token bigint,
    lease_owner text,
    lease_until timestamptz,
    heartbeat_at timestamptz,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

CREATE UNIQUE INDEX retrain_jobs_one_open_per_model ON retrain_jobs (model) WHERE state IN ('queued', 'running');

-- The registry and the way to production.

CREATE TABLE model_versions (
    model text NOT NULL,
    version text NOT NULL CHECK (version ~ '^v[0-9]{1,18}$'),
    number bigint NOT NULL GENERATED ALWAYS AS (substr(version, 2)::bigint) STORED,
    manifest_sha256 text NOT NULL CHECK (manifest_sha256 ~ '^[0-9a-f]{64}$'),
    manifest jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, version)
);

CREATE UNIQUE INDEX model_versions_by_age ON model_versions (model, number);

CREATE TABLE model_aliases (
    model text NOT NULL,
    alias text NOT NULL,
    version text NOT NULL,
    epoch bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, alias),
    FOREIGN KEY (model, version) REFERENCES model_versions
);

CREATE TABLE registry_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model text NOT NULL,
    version text NOT NULL,
    event text NOT NULL CHECK (event IN ('registered', 'adopted', 'promoted')),
    actor text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE rollouts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model text NOT NULL,
    stable text NOT NULL,
    canary text NOT NULL,
    phase text NOT NULL CHECK (
        phase IN ('preparing', 'ramping', 'paused', 'promoted', 'rolled_back', 'superseded')
    ),
    stage integer NOT NULL,
    weight_bp integer NOT NULL CHECK (weight_bp BETWEEN 0 AND 10000),
    epoch bigint NOT NULL UNIQUE,
    salt text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    stage_started_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (model, stable) REFERENCES model_versions,
    FOREIGN KEY (model, canary) REFERENCES model_versions
);

CREATE UNIQUE INDEX rollouts_one_open_per_model ON rollouts (model)
WHERE phase IN ('preparing', 'ramping', 'paused');

-- A version is tried once: a controller that was asleep cannot begin again what others have rolled back.
CREATE UNIQUE INDEX rollouts_one_per_canary ON rollouts (model, canary);

CREATE TABLE rollout_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rollout_id bigint NOT NULL REFERENCES rollouts,
    model text NOT NULL,
    epoch bigint NOT NULL,
    from_phase text,
    to_phase text NOT NULL,
    from_stage integer,
    to_stage integer NOT NULL,
    weight_bp integer NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    evidence jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX rollout_events_of_rollout ON rollout_events (rollout_id, id);

-- Access to the operator's routes.

CREATE TABLE api_keys (
    prefix text PRIMARY KEY,
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON drift_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON registry_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rollout_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON model_versions
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
