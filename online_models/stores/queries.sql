-- Every statement of the PostgreSQL stores, by name; one sentence each. Loaded by `postgres.query`.
--
-- Rows are inserted in key order: two writers that share keys then wait for each other instead of deadlocking, and the
-- pages of an index are met in order (a quarter of the cost of an insert, with random UUIDs).

-- name: schema_version
-- The version that the database is at, or NULL before the first migration.
SELECT max(version) FROM schema_version;

-- name: create_schema_version
-- The table of applied migrations; run under the migration lock.
CREATE TABLE IF NOT EXISTS schema_version (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: lock_migration
-- Wait until no other process migrates this database; held to the end of the transaction.
SELECT pg_advisory_xact_lock(7305812649071);

-- name: insert_schema_version
-- Note that a migration is applied.
INSERT INTO schema_version (version) VALUES (%(version)s);

-- name: create_staging
-- Where COPY puts a call's events, one session each; emptied in place at commit: TRUNCATE or DROP would make the commit wait for the disk.
CREATE TEMPORARY TABLE IF NOT EXISTS staging (
    event_id uuid, ts_ms bigint, type text, user_id text, item_id text, domain text, value double precision,
    request_id text, position integer, model_version text, rollout_id bigint, propensity double precision,
    features jsonb
) ON COMMIT DELETE ROWS;

-- name: commit_without_waiting
-- Let this transaction's commit return before its WAL is on disk.
SET LOCAL synchronous_commit = off;

-- name: copy_staging
-- Receive a call's events in COPY's text format.
COPY staging FROM STDIN;

-- name: insert_users
-- Make users known, given in one order in every process so that two writers cannot deadlock.
INSERT INTO users (user_id) SELECT unnest(%(users)s) ON CONFLICT DO NOTHING;

-- name: select_users
-- The next users in the order of their ids.
SELECT user_id FROM users WHERE user_id > %(after)s ORDER BY user_id LIMIT %(count)s;

-- name: copy_watch_history
-- Receive watches in COPY's text format, none of which may be known.
COPY watch_history (
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
) FROM STDIN;

-- name: copy_purchase_history
-- Receive purchases in COPY's text format, none of which may be known.
COPY purchase_history (
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
) FROM STDIN;

-- name: copy_impressions
-- Receive impressions in COPY's text format, none of which may be known.
COPY impressions (
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
) FROM STDIN;

-- name: copy_feedback
-- Receive clicks, ratings and skips in COPY's text format, none of which may be known.
COPY feedback (
    event_id, ts_ms, type, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
) FROM STDIN;

-- name: insert_watch_history
-- Add the staged watches that are not known yet.
INSERT INTO watch_history (
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
)
SELECT
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
FROM staging WHERE type = 'watch' ORDER BY event_id ON CONFLICT (event_id) DO NOTHING;

-- name: insert_purchase_history
-- Add the staged purchases that are not known yet.
INSERT INTO purchase_history (
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
)
SELECT
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
FROM staging WHERE type = 'purchase' ORDER BY event_id ON CONFLICT (event_id) DO NOTHING;

-- name: insert_impressions
-- Add the staged impressions that are not known yet.
INSERT INTO impressions (
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
)
SELECT
    event_id, ts_ms, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
FROM staging WHERE type = 'impression' ORDER BY event_id ON CONFLICT (event_id) DO NOTHING;

-- name: insert_feedback
-- Add the staged clicks, ratings and skips that are not known yet.
INSERT INTO feedback (
    event_id, ts_ms, type, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
)
SELECT
    event_id, ts_ms, type, user_id, item_id, domain, value,
    request_id, position, model_version, rollout_id, propensity, features
FROM staging WHERE type IN ('click', 'rating', 'skip') ORDER BY event_id ON CONFLICT (event_id) DO NOTHING;

-- name: flush_wal
-- Write a WAL record, so that the commit of this otherwise empty transaction flushes the WAL up to it.
SELECT pg_logical_emit_message(true, 'penstock', 'flush');

-- name: select_interactions
-- What training reads: everything a user did with an item of a domain up to an event time, in time order.
SELECT user_id, item_id, type, ts_ms, value, recommended, features
FROM (
    SELECT
        user_id, item_id, 'watch' AS type, ts_ms, event_id, value,
        request_id IS NOT NULL AS recommended, features::text AS features
    FROM watch_history WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s
    UNION ALL
    SELECT user_id, item_id, 'purchase', ts_ms, event_id, value, request_id IS NOT NULL, features::text
    FROM purchase_history WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s
    UNION ALL
    SELECT user_id, item_id, type, ts_ms, event_id, value, request_id IS NOT NULL, features::text
    FROM feedback WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s
) AS event
ORDER BY ts_ms, event_id;

-- name: read_one_moment
-- Let all statements of this transaction see the same rows, and change none.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: select_event_days
-- Each day of a domain's events up to a time: how many, and the sum of a hash of every whole row, under another seed for each table.
SELECT day, sum(events), sum(checksum)
FROM (
    SELECT ts_ms / 86400000 AS day, count(*) AS events, sum(hash_record_extended(event, 1)) AS checksum
    FROM watch_history AS event WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s GROUP BY day
    UNION ALL
    SELECT ts_ms / 86400000 AS day, count(*) AS events, sum(hash_record_extended(event, 2)) AS checksum
    FROM purchase_history AS event WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s GROUP BY day
    UNION ALL
    SELECT ts_ms / 86400000 AS day, count(*) AS events, sum(hash_record_extended(event, 3)) AS checksum
    FROM impressions AS event WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s GROUP BY day
    UNION ALL
    SELECT ts_ms / 86400000 AS day, count(*) AS events, sum(hash_record_extended(event, 4)) AS checksum
    FROM feedback AS event WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s GROUP BY day
) AS digest
GROUP BY day
ORDER BY day;

-- name: copy_event_days
-- Send all events of a domain on some days up to a time as CSV, in time order.
COPY (
    SELECT
        event_id, user_id, item_id, type, ts_ms, value,
        request_id, position, model_version, propensity, features
    FROM (
        SELECT
            event_id, user_id, item_id, 'watch' AS type, ts_ms, value,
            request_id, position, model_version, propensity, features
        FROM watch_history
        WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s AND ts_ms / 86400000 = ANY (%(days)s)
        UNION ALL
        SELECT
            event_id, user_id, item_id, 'purchase', ts_ms, value,
            request_id, position, model_version, propensity, features
        FROM purchase_history
        WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s AND ts_ms / 86400000 = ANY (%(days)s)
        UNION ALL
        SELECT
            event_id, user_id, item_id, 'impression', ts_ms, value,
            request_id, position, model_version, propensity, features
        FROM impressions
        WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s AND ts_ms / 86400000 = ANY (%(days)s)
        UNION ALL
        SELECT
            event_id, user_id, item_id, type, ts_ms, value,
            request_id, position, model_version, propensity, features
        FROM feedback
        WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s AND ts_ms / 86400000 = ANY (%(days)s)
    ) AS event
    ORDER BY ts_ms, event_id, type
) TO STDOUT (FORMAT csv);

-- name: upsert_items
-- Insert or replace catalogue entries.
INSERT INTO items (domain, item_id, title, categories, price, min_age, available_ms) VALUES %s
ON CONFLICT (domain, item_id)
DO UPDATE SET title = excluded.title, categories = excluded.categories, price = excluded.price,
    min_age = excluded.min_age, available_ms = excluded.available_ms, updated_at = now();

-- name: select_items
-- The catalogue of a domain by item id.
SELECT item_id, title, categories, price, min_age, available_ms FROM items WHERE domain = %(domain)s ORDER BY item_id;

-- name: upsert_window_reports
-- Insert or replace window reports.
INSERT INTO window_reports (model, window_start_ms, window_end_ms, report) VALUES %s
ON CONFLICT (model, window_start_ms, window_end_ms) DO UPDATE SET report = excluded.report;

-- name: upsert_feature_windows
-- Insert or replace what features looked like in windows, given as one JSON list of rows.
INSERT INTO feature_windows (
    model, window_start_ms, window_end_ms, feature, kind, champion, events, missing, verdict, why,
    mean, sd, minimum, maximum, quantiles, cardinality, new_share, heavy_fingerprints, heavy_counts,
    statistics, p_value, effect, detectable, information, rank, bins, counts, reference
)
SELECT
    model, window_start_ms, window_end_ms, feature, kind, champion, events, missing, verdict, why,
    mean, sd, minimum, maximum, quantiles, cardinality, new_share, heavy_fingerprints, heavy_counts,
    statistics, p_value, effect, detectable, information, rank, bins, counts, reference
FROM json_populate_recordset(NULL::feature_windows, %s)
ON CONFLICT (model, window_end_ms, window_start_ms, feature) DO UPDATE SET
    kind = excluded.kind, champion = excluded.champion, events = excluded.events, missing = excluded.missing,
    verdict = excluded.verdict, why = excluded.why, mean = excluded.mean, sd = excluded.sd,
    minimum = excluded.minimum, maximum = excluded.maximum, quantiles = excluded.quantiles,
    cardinality = excluded.cardinality, new_share = excluded.new_share,
    heavy_fingerprints = excluded.heavy_fingerprints, heavy_counts = excluded.heavy_counts,
    statistics = excluded.statistics, p_value = excluded.p_value, effect = excluded.effect,
    detectable = excluded.detectable, information = excluded.information, rank = excluded.rank,
    bins = excluded.bins, counts = excluded.counts, reference = excluded.reference;

-- name: select_feature_windows
-- A model's features, or one of them, in the windows that end in a range.
SELECT
    model, window_start_ms, window_end_ms, feature, kind, champion, events, missing, verdict, why,
    mean, sd, minimum, maximum, quantiles, cardinality, new_share, heavy_fingerprints, heavy_counts,
    statistics, p_value, effect, detectable, information, rank, bins, counts, reference
FROM feature_windows
WHERE
    model = %(model)s AND window_end_ms > %(start_ms)s AND window_end_ms <= %(end_ms)s
    AND (%(feature)s::text IS NULL OR feature = %(feature)s)
ORDER BY window_end_ms, window_start_ms, feature;

-- name: select_latest_windows
-- When each model's latest window with features ended, found by a skip through the key: one probe per model.
WITH RECURSIVE latest AS (
    (SELECT model, window_end_ms FROM feature_windows ORDER BY model DESC, window_end_ms DESC LIMIT 1)
    UNION ALL
    SELECT following.model, following.window_end_ms
    FROM latest
    CROSS JOIN LATERAL (
        SELECT model, window_end_ms FROM feature_windows
        WHERE feature_windows.model < latest.model
        ORDER BY model DESC, window_end_ms DESC LIMIT 1
    ) AS following
)
SELECT model, window_end_ms FROM latest ORDER BY model;

-- name: insert_feature_words
-- Add texts of frequent words that are not known yet.
INSERT INTO feature_words (model, feature, fingerprint, text) VALUES %s
ON CONFLICT (model, feature, fingerprint) DO NOTHING;

-- name: select_feature_words
-- The known words of a model's features.
SELECT feature, fingerprint, text FROM feature_words WHERE model = %(model)s;

-- name: insert_drift_events
-- Add drift events and trigger decisions that are not known yet.
INSERT INTO drift_events (
    id, kind, model, detector, feature, window_start_ms, window_end_ms, statistic, threshold, reason
)
VALUES %s ON CONFLICT (id) DO NOTHING;

-- name: upsert_variant_windows
-- Insert or replace the counts of versions in windows.
INSERT INTO model_metrics (
    model, version, rollout_id, stage, window_start_ms, window_end_ms, users, successes, requests, hits, impressions,
    clicks, variant, stage_users, first_items, repeats
)
VALUES %s
ON CONFLICT (model, version, rollout_id, stage, variant, window_start_ms) DO UPDATE SET
    window_end_ms = excluded.window_end_ms, users = excluded.users, successes = excluded.successes,
    requests = excluded.requests, hits = excluded.hits, impressions = excluded.impressions, clicks = excluded.clicks,
    stage_users = excluded.stage_users, first_items = excluded.first_items, repeats = excluded.repeats;

-- name: upsert_grouped_counts
-- Insert or replace the counts of versions by group of users.
INSERT INTO grouped_metrics (model, version, rollout_id, stage, variant, since_ms, counts) VALUES %s
ON CONFLICT (rollout_id, stage, variant, version, since_ms) DO UPDATE SET counts = excluded.counts;

-- name: upsert_shadow_counts
-- Insert or replace the counts of versions in the shadow.
INSERT INTO shadow_metrics (model, version, since_ms, counts) VALUES %s
ON CONFLICT (model, version, since_ms) DO UPDATE SET counts = excluded.counts;

-- name: submit_job
-- Queue a job unless its trigger has one or its model has an open one; returns the job of the trigger, if there is one.
WITH queued AS (
    INSERT INTO retrain_jobs (model, trigger_id, reason, payload)
    VALUES (%(model)s, %(trigger_id)s, %(reason)s, %(payload)s::jsonb)
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT id FROM queued
UNION ALL
SELECT id FROM retrain_jobs WHERE trigger_id = %(trigger_id)s
LIMIT 1;

-- name: bury_exhausted_jobs
-- Give up the jobs whose next attempt would be one too many.
UPDATE retrain_jobs
SET state = 'dead', finished_at = now(), lease_until = NULL,
    error = concat_ws('; ', error, 'gave up after ' || attempt || ' attempts')
WHERE id IN (
    SELECT id FROM retrain_jobs
    WHERE attempt >= max_attempts
        AND ((state = 'queued' AND not_before <= now()) OR (state = 'running' AND lease_until < now()))
    FOR UPDATE SKIP LOCKED
);

-- name: claim_job
-- Lease the oldest job that is due or whose lease ran out, under a fresh fencing token, passing over jobs that are being claimed.
UPDATE retrain_jobs
SET state = 'running', attempt = attempt + 1, lease_token = nextval('lease_token'), lease_owner = %(worker)s,
    lease_until = now() + %(lease)s, heartbeat_at = now(), progress = NULL, estimate = NULL
WHERE id = (
    SELECT id FROM retrain_jobs
    WHERE attempt < max_attempts
        AND ((state = 'queued' AND not_before <= now()) OR (state = 'running' AND lease_until < now()))
        AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s::text[]))
    ORDER BY id
    FOR UPDATE SKIP LOCKED
    LIMIT 1
)
RETURNING
    id, model, trigger_id, reason, payload::text, attempt, max_attempts, lease_token, lease_until, cost::text;

-- name: count_training_events
-- How many events `select_interactions` would give.
SELECT
    (SELECT count(*) FROM watch_history WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s)
    + (SELECT count(*) FROM purchase_history WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s)
    + (SELECT count(*) FROM feedback WHERE domain = %(domain)s AND ts_ms <= %(until_ms)s);

-- name: limit_statement
-- Have the server end a statement of this transaction that takes longer.
SELECT set_config('statement_timeout', %(milliseconds)s::text, true);

-- name: select_past_costs
-- What the newest trainings like this one have cost.
SELECT cost::text FROM retrain_jobs
WHERE model = %(model)s AND kind = %(kind)s AND level = %(level)s AND state IN ('done', 'rejected')
    AND (cost ->> 'events')::bigint > 0
ORDER BY id DESC LIMIT %(count)s;

-- name: lock_budget
-- Have reservations come one after the other, so that each sees those before it.
SELECT pg_advisory_xact_lock(hashtextextended('penstock.budget', 0));

-- name: select_spent
-- CPU seconds of other jobs that were last heard of on the current UTC day, used or reserved; and the champion.
SELECT
    coalesce(sum(
        greatest(
            (cost ->> 'cpu_seconds')::double precision,
            CASE WHEN state = 'running' THEN (estimate ->> 'cpu_seconds')::double precision END
        )
    ), 0),
    (SELECT version FROM model_aliases WHERE model = %(model)s AND alias = 'champion')
FROM retrain_jobs
WHERE id <> %(id)s AND greatest(heartbeat_at, finished_at) >= date_trunc('day', now(), 'UTC');

-- name: keep_estimate
-- Note what the token's job is expected to cost.
UPDATE retrain_jobs SET estimate = %(estimate)s::jsonb
WHERE id = %(id)s AND lease_token = %(token)s AND state = 'running';

-- name: put_off_job
-- Queue the token's job for the next UTC day, as if it had never been claimed.
UPDATE retrain_jobs
SET state = 'queued', error = %(error)s, lease_until = NULL, attempt = attempt - 1,
    not_before = date_trunc('day', now(), 'UTC') + interval '1 day'
WHERE id = %(id)s AND lease_token = %(token)s AND state = 'running';

-- name: extend_lease
-- Prolong the lease of the token's holder, and note how far it is.
UPDATE retrain_jobs
SET lease_until = now() + %(lease)s, heartbeat_at = now(),
    progress = coalesce(%(progress)s::jsonb, progress), cost = coalesce(%(cost)s::jsonb, cost)
WHERE id = %(id)s AND lease_token = %(token)s AND state = 'running';

-- name: finish_job
-- Move the token's job to a final state.
UPDATE retrain_jobs
SET state = %(state)s, error = %(error)s, lease_until = NULL, finished_at = now(),
    cost = coalesce(%(cost)s::jsonb, cost), report = %(report)s::jsonb
WHERE id = %(id)s AND lease_token = %(token)s AND state = 'running';

-- name: retry_job
-- Queue the token's job again, not before a delay.
UPDATE retrain_jobs
SET state = 'queued', error = %(error)s, lease_until = NULL, not_before = now() + %(after)s,
    cost = coalesce(%(cost)s::jsonb, cost)
WHERE id = %(id)s AND lease_token = %(token)s AND state = 'running';

-- name: release_job
-- Queue the token's job again at once, as if it had never been claimed.
UPDATE retrain_jobs
SET state = 'queued', lease_until = NULL, not_before = now(), attempt = attempt - 1,
    cost = coalesce(%(cost)s::jsonb, cost)
WHERE id = %(id)s AND lease_token = %(token)s AND state = 'running';

-- name: select_lease
-- Who holds a job now.
SELECT state, lease_token FROM retrain_jobs WHERE id = %(id)s;

-- name: count_jobs
-- How many jobs of one model, or of all, are in each state.
SELECT state, count(*) FROM retrain_jobs WHERE %(model)s::text IS NULL OR model = %(model)s GROUP BY state;

-- name: select_job_statuses
-- The youngest jobs of one model, or of all.
SELECT
    id, model, coalesce(kind, payload ->> 'type', '?'), level, reason, state, attempt, max_attempts, lease_owner,
    progress::text, estimate::text, cost::text, report::text, error, not_before, created_at, finished_at
FROM retrain_jobs
WHERE %(model)s::text IS NULL OR model = %(model)s
ORDER BY id DESC LIMIT %(count)s;

-- name: select_finished
-- Those of the jobs that are in a final state.
SELECT id FROM retrain_jobs WHERE id = ANY(%(ids)s) AND state IN ('done', 'rejected', 'dead');

-- name: select_tokens_in_work
-- The tokens under which jobs of a model may still be finished.
SELECT lease_token FROM retrain_jobs WHERE model = %(model)s AND state = 'running';

-- name: next_version
-- A number that no lease and no version has used.
SELECT nextval('lease_token');

-- name: insert_version
-- Register a version, unless it exists.
INSERT INTO model_versions (model, version, manifest_sha256, manifest)
VALUES (%(model)s, %(version)s, %(manifest_sha256)s, %(manifest)s::jsonb)
ON CONFLICT (model, version) DO NOTHING;

-- name: insert_registry_event
-- Note what happened to a version, for the record and for the mirror.
WITH noted AS (
    INSERT INTO registry_events (model, version, event, actor, detail)
    VALUES (%(model)s, %(version)s, %(event)s, %(actor)s, %(detail)s::jsonb)
    RETURNING id, model
)
INSERT INTO registry_outbox (event_id, model) SELECT id, model FROM noted;

-- name: select_registry_events
-- All that happened to the versions of a model, oldest first.
SELECT id, model, version, event, actor, detail, created_at
FROM registry_events WHERE model = %(model)s ORDER BY id;

-- name: select_last_registry_event
-- The youngest event of a model; 0 without one.
SELECT coalesce(max(id), 0) FROM registry_events WHERE model = %(model)s;

-- name: insert_collection_event
-- Note a step of a version's collection, unless it is noted already.
WITH noted AS (
    INSERT INTO registry_events (model, version, event, actor)
    VALUES (%(model)s, %(version)s, %(event)s, %(actor)s)
    ON CONFLICT (model, version, event) WHERE event IN ('collecting', 'collected') DO NOTHING
    RETURNING id, model
)
INSERT INTO registry_outbox (event_id, model) SELECT id, model FROM noted;

-- name: select_collection
-- When the collection of a version's artifact began, if it did.
SELECT created_at FROM registry_events
WHERE model = %(model)s AND version = %(version)s AND event = 'collecting';

-- name: select_origins
-- The jobs that have made a version of a model, with their triggers.
SELECT job.id, job.trigger_id, job.reason, job.created_at, job.finished_at, job.cost::text
FROM retrain_jobs AS job WHERE job.model = %(model)s AND job.state = 'done';

-- name: lock_outbox
-- Let one worker at a time choose what it sends.
SELECT pg_advisory_xact_lock(hashtextextended('penstock.outbox', 0));

-- name: claim_outbox
-- Take the waiting entries of one model, none of which is held by another worker or waits after a failure.
UPDATE registry_outbox AS entry SET not_before = now() + %(lease)s
FROM registry_events AS event
WHERE event.id = entry.event_id AND entry.event_id IN (
    SELECT event_id FROM registry_outbox
    WHERE not_before <= now() AND model = (
        SELECT model FROM registry_outbox GROUP BY model HAVING max(not_before) <= now() ORDER BY min(event_id) LIMIT 1
    )
    ORDER BY event_id
    FOR UPDATE
    LIMIT %(count)s
)
RETURNING
    entry.attempts, event.id, event.model, event.version, event.event, event.actor, event.detail, event.created_at;

-- name: delete_outbox
-- Forget entries that are delivered.
DELETE FROM registry_outbox WHERE event_id = ANY(%(events)s);

-- name: postpone_outbox
-- Leave entries for later, with how often they have failed (column `attempts`) and the error.
UPDATE registry_outbox SET not_before = now() + %(after)s, attempts = %(failures)s, error = %(error)s
WHERE event_id = ANY(%(events)s);

-- name: give_back_outbox
-- Leave entries that were claimed and not tried to whoever comes next.
UPDATE registry_outbox SET not_before = now() WHERE event_id = ANY(%(events)s);

-- name: trim_outbox
-- Forget all entries but the youngest.
DELETE FROM registry_outbox
WHERE event_id <= (SELECT event_id FROM registry_outbox ORDER BY event_id DESC OFFSET %(keep)s LIMIT 1);

-- name: refill_outbox
-- Have everything that happened to the versions of a model, or of all, mirrored again, and at once.
INSERT INTO registry_outbox (event_id, model)
SELECT id, model FROM registry_events WHERE %(model)s::text IS NULL OR model = %(model)s
ON CONFLICT (event_id) DO UPDATE SET not_before = least(registry_outbox.not_before, now());

-- name: select_outbox
-- How many entries of each model wait, the most failures of one, and the last error.
SELECT model, count(*), max(attempts), max(error) FROM registry_outbox GROUP BY model ORDER BY model;

-- name: select_version
-- One version.
SELECT model, version, manifest_sha256, manifest::text, created_at
FROM model_versions WHERE model = %(model)s AND version = %(version)s;

-- name: select_versions
-- All versions of a model, oldest first.
SELECT model, version, manifest_sha256, manifest::text, created_at
FROM model_versions WHERE model = %(model)s ORDER BY number;

-- name: version_exists
-- Whether a version is registered.
SELECT EXISTS (SELECT FROM model_versions WHERE model = %(model)s AND version = %(version)s);

-- name: select_models
-- Models with at least one version.
SELECT DISTINCT model FROM model_versions ORDER BY model;

-- name: select_champion
-- The version behind the alias `champion`, and the epoch at which it became that.
SELECT version, epoch FROM model_aliases WHERE model = %(model)s AND alias = 'champion';

-- name: insert_champion
-- Make a version the first champion of its model.
INSERT INTO model_aliases (model, alias, version, epoch)
VALUES (%(model)s, 'champion', %(version)s, nextval('epoch'))
ON CONFLICT (model, alias) DO NOTHING
RETURNING epoch;

-- name: lock_champion
-- Serialise what changes a model's champion or rollouts: epochs are then drawn in the order in which they become visible.
SELECT version FROM model_aliases WHERE model = %(model)s AND alias = 'champion' FOR UPDATE;

-- name: lock_epochs
-- Have those who raise epochs come one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('penstock.epoch', 0));

-- name: raise_epochs
-- Have the next epoch be above one; by a stride, for epochs are being drawn meanwhile, and none may be drawn twice.
SELECT setval('epoch', %(above)s + %(stride)s) FROM epoch WHERE last_value <= %(above)s;

-- name: restamp_champion
-- Give the champion a fresh epoch; it stays what it is, since when it is.
UPDATE model_aliases SET epoch = nextval('epoch') WHERE model = %(model)s AND alias = 'champion';

-- name: select_aliases
-- Where the aliases of a model point.
SELECT alias, version, epoch, updated_at FROM model_aliases WHERE model = %(model)s ORDER BY alias;

-- name: move_alias
-- Point an alias at a version, unless it has been pointed elsewhere since that epoch.
INSERT INTO model_aliases (model, alias, version, epoch)
VALUES (%(model)s, %(alias)s, %(version)s, %(epoch)s)
ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version, epoch = excluded.epoch, updated_at = now()
WHERE model_aliases.epoch < excluded.epoch;

-- name: delete_challenger
-- Nobody is challenger any more.
DELETE FROM model_aliases WHERE model = %(model)s AND alias = 'challenger' AND version = %(version)s;

-- name: select_open_rollout
-- The model's rollout that is not final.
SELECT
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text
FROM rollouts WHERE model = %(model)s AND phase IN ('preparing', 'ramping', 'paused');

-- name: select_latest_rollout
-- The model's youngest rollout.
SELECT
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text
FROM rollouts WHERE model = %(model)s ORDER BY id DESC LIMIT 1;

-- name: select_last_promotion
-- The rollout by which the model's champion became that: its youngest promotion, or return to a version of before.
SELECT
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text
FROM rollouts WHERE model = %(model)s AND phase = 'promoted' ORDER BY id DESC LIMIT 1;

-- name: select_rollout_history
-- The model's youngest rollouts, youngest first.
SELECT
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text
FROM rollouts WHERE model = %(model)s ORDER BY id DESC LIMIT %(limit)s;

-- name: select_rollout_events
-- What happened to a rollout, oldest first.
SELECT
    id, rollout_id, epoch, from_phase, to_phase, from_stage, to_stage, weight_bp, actor, reason, evidence, created_at
FROM rollout_events WHERE rollout_id = %(rollout_id)s ORDER BY id;

-- name: select_rollouts_of
-- The rollouts that a version took part in, oldest first.
SELECT
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text
FROM rollouts
WHERE model = %(model)s AND (
    canary = %(version)s OR stable = %(version)s OR arms @> jsonb_build_array(jsonb_build_object('version', %(version)s::text))
)
ORDER BY id;

-- name: select_candidates
-- Recommenders younger than each that has served or was tried, oldest first; none that was collected.
SELECT candidate.version FROM model_versions AS candidate
WHERE candidate.model = %(model)s
    AND candidate.manifest ->> 'kind' <> 'lora'
    AND candidate.number > coalesce(
        (
            SELECT max(tried.number) FROM model_versions AS tried
            WHERE tried.model = %(model)s
                AND tried.manifest ->> 'kind' <> 'lora'
                AND (
                    tried.version IN (
                        SELECT version FROM model_aliases WHERE model = %(model)s AND alias = 'champion'
                    )
                    OR EXISTS (
                        SELECT FROM rollouts
                        WHERE rollouts.model = tried.model
                            AND (
                                tried.version IN (rollouts.canary, rollouts.stable)
                                OR rollouts.arms @> jsonb_build_array(jsonb_build_object('version', tried.version))
                            )
                    )
                )
        ),
        -1
    )
    AND NOT EXISTS (
        SELECT FROM registry_events AS event
        WHERE event.model = candidate.model AND event.version = candidate.version AND event.event = 'collecting'
    )
ORDER BY candidate.number;

-- name: select_adapters
-- Untried language models that came with the champion's recommender, oldest first; none that was collected.
SELECT candidate.version FROM model_versions AS candidate
WHERE candidate.model = %(model)s
    AND candidate.manifest ->> 'kind' = 'lora'
    AND candidate.manifest ->> 'parent' = (
        SELECT version FROM model_aliases WHERE model = %(model)s AND alias = 'champion'
    )
    AND NOT EXISTS (
        SELECT FROM rollouts WHERE rollouts.model = candidate.model AND rollouts.canary = candidate.version
    )
    AND NOT EXISTS (
        SELECT FROM registry_events AS event
        WHERE event.model = candidate.model AND event.version = candidate.version AND event.event = 'collecting'
    )
ORDER BY candidate.number;

-- name: insert_rollout
-- Add a rollout, unless it would be a second open one, or begins by itself with a canary that was tried before.
INSERT INTO rollouts (model, stable, canary, phase, stage, weight_bp, epoch, salt, kind, plan, arms, automatic)
SELECT
    %(model)s, %(stable)s, %(canary)s, %(phase)s, -1, %(weight_bp)s, nextval('epoch'),
    replace(gen_random_uuid()::text, '-', ''), %(kind)s, %(plan)s::jsonb, %(arms)s::jsonb, %(automatic)s
WHERE NOT %(automatic)s OR NOT EXISTS (
    SELECT FROM rollouts
    WHERE model = %(model)s
        AND (canary = %(canary)s OR arms @> jsonb_build_array(jsonb_build_object('version', %(canary)s::text)))
)
ON CONFLICT DO NOTHING
RETURNING
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text;

-- name: update_rollout
-- Move an open rollout on, if nobody has moved it since it was read.
UPDATE rollouts
SET phase = %(phase)s, stage = %(stage)s, weight_bp = %(weight_bp)s, stage_started_at = %(stage_started_at)s,
    arms = %(arms)s::jsonb, epoch = nextval('epoch')
WHERE id = %(id)s AND epoch = %(epoch)s AND phase IN ('preparing', 'ramping', 'paused')
RETURNING
    id, model, stable, canary, phase, stage, weight_bp, epoch, salt, created_at, stage_started_at,
    kind, plan::text, arms::text;

-- name: insert_rollout_event
-- Note a rollout's transition with its evidence.
INSERT INTO rollout_events (
    rollout_id, model, epoch, from_phase, to_phase, from_stage, to_stage, weight_bp, actor, reason, evidence
)
VALUES (
    %(rollout_id)s, %(model)s, %(epoch)s, %(from_phase)s, %(to_phase)s, %(from_stage)s, %(to_stage)s,
    %(weight_bp)s, %(actor)s, %(reason)s, %(evidence)s::jsonb
);

-- name: select_operator_request
-- What an operator's idempotency key was used for, and what came of it.
SELECT fingerprint, answer::text FROM operator_requests WHERE actor = %(actor)s AND key = %(key)s;

-- name: insert_operator_request
-- Note what an operator's request has done, unless its key is taken.
INSERT INTO operator_requests (actor, key, fingerprint, answer)
VALUES (%(actor)s, %(key)s, %(fingerprint)s, %(answer)s::jsonb)
ON CONFLICT (actor, key) DO NOTHING;

-- name: sum_variant_windows
-- What each variant and version did in each stage of a rollout.
SELECT
    stage, variant, version,
    sum(users)::bigint, sum(successes)::bigint, sum(requests)::bigint, sum(hits)::bigint, sum(impressions)::bigint,
    sum(clicks)::bigint, sum(stage_users)::bigint, sum(first_items)::bigint, sum(repeats)::bigint
FROM model_metrics WHERE rollout_id = %(rollout_id)s AND model = %(model)s
GROUP BY stage, variant, version;

-- name: select_grouped_counts
-- The same by group of users, once per run of the flow that counted it.
SELECT stage, variant, version, counts
FROM grouped_metrics WHERE rollout_id = %(rollout_id)s AND model = %(model)s;

-- name: select_shadow_counts
-- The counts of a version in the shadow, once per run of the flow that counted it.
SELECT counts FROM shadow_metrics WHERE model = %(model)s AND version = %(version)s;

-- name: select_variant_windows
-- A rollout's windows, oldest first.
SELECT
    model, version, rollout_id, stage, window_start_ms, window_end_ms, users, successes, requests, hits, impressions,
    clicks, variant, stage_users, first_items, repeats
FROM model_metrics WHERE rollout_id = %(rollout_id)s AND model = %(model)s
ORDER BY window_start_ms, stage, variant, version;

-- name: sum_traffic
-- Length (ms) of a model's windows of the last seven days before its newest one, their users, first exposures, and successes of those.
SELECT
    max(window_end_ms) - min(window_start_ms),
    sum(CASE WHEN rollout_id = 0 THEN users ELSE stage_users END)::bigint, sum(users)::bigint, sum(successes)::bigint
FROM model_metrics
WHERE model = %(model)s AND window_start_ms <= %(now_ms)s AND window_end_ms > (
    SELECT max(window_end_ms) - 7 * 86400000 FROM model_metrics
    WHERE model = %(model)s AND window_start_ms <= %(now_ms)s
);

-- name: insert_key
-- Add an operator's key, unless its prefix is taken.
INSERT INTO api_keys (prefix, sha256, role, name, created_at, expires_at, revoked_at)
VALUES (%(prefix)s, %(sha256)s, %(role)s, %(name)s, %(created_at)s, %(expires_at)s, %(revoked_at)s)
ON CONFLICT (prefix) DO NOTHING;

-- name: select_key
-- The key of a prefix.
SELECT prefix, sha256, role, name, created_at, expires_at, revoked_at FROM api_keys WHERE prefix = %(prefix)s;

-- name: select_keys
-- All operators' keys, oldest first.
SELECT prefix, sha256, role, name, created_at, expires_at, revoked_at FROM api_keys ORDER BY created_at, prefix;

-- name: revoke_key
-- End a key, unless that has been done.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, %(now)s) WHERE prefix = %(prefix)s;
