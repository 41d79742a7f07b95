-- What is stored can be read, whoever stored it; and nobody waits for a lock that he does not need.

-- === bounds: of the tables, so that no door is wider than another (src/jobs/bounds.rs has the same numbers) ===

-- What another version or a person has written outside of them is brought back inside, so that it can be looked at,
-- cancelled and run. Most of it before anybody is locked out; what comes in between makes this migration start anew.
UPDATE lameduck.jobs SET
    priority     = least(greatest(priority, -9), 9),
    run_at       = least(greatest(run_at, 0), 253370764800000000),
    submitted_at = least(greatest(submitted_at, 0), 253370764800000000),
    started_at   = least(greatest(started_at, 0), 253370764800000000),
    ended_at     = least(greatest(ended_at, 0), 253370764800000000),
    timeout      = least(greatest(timeout, 1000), 604800000000),
    max_attempts = least(greatest(max_attempts, 1), 4294967295)
WHERE priority NOT BETWEEN -9 AND 9
   OR run_at NOT BETWEEN 0 AND 253370764800000000
   OR submitted_at NOT BETWEEN 0 AND 253370764800000000
   OR started_at NOT BETWEEN 0 AND 253370764800000000
   OR ended_at NOT BETWEEN 0 AND 253370764800000000
   OR timeout NOT BETWEEN 1000 AND 604800000000
   OR max_attempts NOT BETWEEN 1 AND 4294967295;

ALTER TABLE lameduck.jobs
    ADD CONSTRAINT jobs_state_known CHECK (state BETWEEN 0 AND 5),
    ADD CONSTRAINT jobs_priority_in_bounds CHECK (priority BETWEEN -9 AND 9),
    ADD CONSTRAINT jobs_instants_in_bounds CHECK (
        run_at BETWEEN 0 AND 253370764800000000
        AND submitted_at BETWEEN 0 AND 253370764800000000
        AND started_at BETWEEN 0 AND 253370764800000000
        AND ended_at BETWEEN 0 AND 253370764800000000
    ),
    ADD CONSTRAINT jobs_timeout_in_bounds CHECK (timeout BETWEEN 1000 AND 604800000000),
    ADD CONSTRAINT jobs_max_attempts_in_bounds CHECK (max_attempts BETWEEN 1 AND 4294967295);

-- === counters: in a row that is free ===

-- Each queue has its rows from the beginning, so that nobody has to make one and to wait for whoever makes the same.
CREATE FUNCTION lameduck.make_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lameduck.queue_counts (queue, shard, waiting, bytes)
    SELECT NEW.id, shard, 0, 0 FROM pg_catalog.generate_series(0, 15) AS shard ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER queues_came AFTER INSERT ON lameduck.queues FOR EACH ROW EXECUTE FUNCTION lameduck.make_counts();

INSERT INTO lameduck.queue_counts (queue, shard, waiting, bytes)
SELECT id, shard, 0, 0 FROM lameduck.queues CROSS JOIN pg_catalog.generate_series(0, 15) AS shard
ON CONFLICT DO NOTHING;

-- Counts in one of a queue's rows that nobody has locked, its own first; where all are, in one that only this
-- transaction knows of, and housekeeping adds it to the others. A transaction that stays open holds up nobody.
CREATE FUNCTION lameduck.count_in(counted integer, more_waiting bigint, more_bytes bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    own  CONSTANT smallint := pg_catalog.pg_backend_pid() & 15;
    free smallint;
BEGIN
    IF pg_catalog.current_setting('lameduck.enqueues', true) IS DISTINCT FROM 'on' THEN
        SELECT c.shard INTO free FROM lameduck.queue_counts c WHERE c.queue = counted AND c.shard = own
        FOR UPDATE SKIP LOCKED;
        IF free IS NULL THEN
            SELECT c.shard INTO free FROM lameduck.queue_counts c WHERE c.queue = counted AND c.shard < 16
            LIMIT 1 FOR UPDATE SKIP LOCKED;
        END IF;
    END IF;
    IF free IS NOT NULL THEN
        UPDATE lameduck.queue_counts c SET waiting = c.waiting + more_waiting, bytes = c.bytes + more_bytes
        WHERE c.queue = counted AND c.shard = free;
    ELSE
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        VALUES (counted, 16 + pg_catalog.txid_current() % 32000, more_waiting, more_bytes)
        ON CONFLICT (queue, shard) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION lameduck.count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    delta record;
BEGIN
    IF TG_OP = 'INSERT' THEN
        FOR delta IN
            SELECT queue, count(*) FILTER (WHERE state = 0) AS waiting, sum(octet_length(payload)) AS bytes
            FROM fresh GROUP BY queue ORDER BY queue
        LOOP
            PERFORM lameduck.count_in(delta.queue, delta.waiting, delta.bytes);
        END LOOP;
    ELSIF TG_OP = 'DELETE' THEN
        FOR delta IN
            SELECT queue, -count(*) FILTER (WHERE state = 0) AS waiting,
                   -sum(octet_length(payload) + coalesce(octet_length(result), 0)) AS bytes
            FROM gone GROUP BY queue ORDER BY queue
        LOOP
            PERFORM lameduck.count_in(delta.queue, delta.waiting, delta.bytes);
        END LOOP;
    ELSE
        FOR delta IN
            SELECT queue, sum(waiting) AS waiting, sum(bytes) AS bytes FROM (
                SELECT queue, (state = 0)::int AS waiting, coalesce(octet_length(result), 0) AS bytes FROM after
                UNION ALL
                SELECT queue, -(state = 0)::int, -coalesce(octet_length(result), 0) FROM before
            ) AS changed
            GROUP BY queue HAVING sum(waiting) <> 0 OR sum(bytes) <> 0 ORDER BY queue
        LOOP
            PERFORM lameduck.count_in(delta.queue, delta.waiting, delta.bytes);
        END LOOP;
    END IF;
    RETURN NULL;
END $$;

-- === what may be in use by a transaction that has not ended: waited for no longer than a commit takes ===

-- Makes queues; returns those that somebody else is making just now.
CREATE FUNCTION lameduck.make_queues(names text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    patience CONSTANT text := pg_catalog.current_setting('lock_timeout');
    busy     text[] := '{}';
    asked    text;
BEGIN
    PERFORM pg_catalog.set_config('lock_timeout', '20ms', true);
    -- In an order, so that two who make the same ones do not wait for each other.
    FOR asked IN
        SELECT DISTINCT n FROM pg_catalog.unnest(names) AS n
        WHERE NOT EXISTS (SELECT FROM lameduck.queues q WHERE q.name = n) ORDER BY n
    LOOP
        BEGIN
            INSERT INTO lameduck.queues (name) VALUES (asked) ON CONFLICT DO NOTHING;
        EXCEPTION WHEN lock_not_available THEN
            busy := busy || asked;
        END;
    END LOOP;
    PERFORM pg_catalog.set_config('lock_timeout', patience, true);
    RETURN busy;
END $$;

-- Takes keys; says how many are new, and the places (from 1) of those that somebody else has taken and may still give
-- back. All in one go as long as none is such a one, which is nearly always.
CREATE FUNCTION lameduck.take_keys(queues integer[], keys text[], jobs uuid[], digests bytea[], now bigint,
                                   OUT added bigint, OUT busy integer[]) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    patience CONSTANT text := pg_catalog.current_setting('lock_timeout');
    asked    record;
    here     bigint;
BEGIN
    busy := '{}';
    PERFORM pg_catalog.set_config('lock_timeout', '20ms', true);
    BEGIN
        INSERT INTO lameduck.idempotency_keys AS k (queue, key, job, digest, created_at)
        SELECT n.queue, n.key, n.job, n.digest, now
        FROM unnest(queues, keys, jobs, digests) AS n (queue, key, job, digest)
        ORDER BY n.queue, n.key ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS added = ROW_COUNT;
    EXCEPTION WHEN lock_not_available THEN
        added := 0;
        PERFORM pg_catalog.set_config('lock_timeout', '5ms', true);
        FOR asked IN
            SELECT * FROM unnest(queues, keys, jobs, digests)
                     WITH ORDINALITY AS n (queue, key, job, digest, place)
            ORDER BY n.queue, n.key
        LOOP
            BEGIN
                INSERT INTO lameduck.idempotency_keys AS k (queue, key, job, digest, created_at)
                VALUES (asked.queue, asked.key, asked.job, asked.digest, now) ON CONFLICT DO NOTHING;
                GET DIAGNOSTICS here = ROW_COUNT;
                added := added + here;
            EXCEPTION WHEN lock_not_available THEN
                busy := busy || asked.place::integer;
                -- Who has many of them open is not waited for that many times.
                PERFORM pg_catalog.set_config('lock_timeout', '1ms', true);
            END;
        END LOOP;
    END;
    PERFORM pg_catalog.set_config('lock_timeout', patience, true);
END $$;

-- === jobs from another application ===

CREATE OR REPLACE FUNCTION lameduck.enqueue(
    queue           text,
    payload         bytea,
    content_type    text        DEFAULT 'application/octet-stream',
    run_at          timestamptz DEFAULT NULL,   -- not before; null for now
    priority        integer     DEFAULT 0,      -- -9 to 9, higher first
    timeout         interval    DEFAULT NULL,   -- of a run; null for the queue's own
    max_attempts    integer     DEFAULT 5,
    idempotency_key text        DEFAULT NULL,
    traceparent     text        DEFAULT NULL,
    notify          boolean     DEFAULT true    -- wake a worker at the commit; else one looks within a second
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    job       CONSTANT uuid        := gen_random_uuid();
    clock     CONSTANT timestamptz := clock_timestamp();
    now       CONSTANT bigint      := extract(epoch FROM clock) * 1000000;
    due       bigint;
    digest    bytea;
    queue_id  integer;
    first     record;
BEGIN
    IF enqueue.queue IS NULL OR enqueue.queue !~ '^[a-z0-9][a-z0-9_-]{0,62}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%L is not a queue name', left(enqueue.queue, 80)),
            HINT = 'Use 1 to 63 characters of a-z, 0-9, "-" and "_", beginning with a letter or a digit.';
    ELSIF enqueue.payload IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payload is null';
    ELSIF octet_length(enqueue.payload) > 268435456 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payload has at most 268435456 bytes';
    ELSIF coalesce(enqueue.content_type, '') !~ '^[\x20-\x7e]{1,255}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'content_type has to be 1 to 255 characters of visible ASCII';
    ELSIF NOT isfinite(enqueue.run_at) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'run_at has to be an instant, and not infinity',
            HINT = 'Leave it out for a job that may run at once.';
    -- In hours: a day has 23 to 25 of them.
    ELSIF enqueue.run_at > clock + interval '8760 hours' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'run_at is at most 365 days ahead';
    ELSIF coalesce(enqueue.priority NOT BETWEEN -9 AND 9, true) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'priority goes from -9 to 9';
    ELSIF coalesce(enqueue.max_attempts NOT BETWEEN 1 AND 100, true) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'max_attempts goes from 1 to 100';
    ELSIF enqueue.timeout < interval '1 millisecond' OR enqueue.timeout > interval '7 days' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'timeout goes from 1 millisecond to 7 days';
    ELSIF octet_length(enqueue.idempotency_key) NOT BETWEEN 1 AND 255
        OR enqueue.idempotency_key ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'idempotency_key has 1 to 255 bytes and no control characters';
    END IF;
    -- An instant in the past overtakes nobody, however far back it is.
    due := CASE WHEN enqueue.run_at > clock THEN extract(epoch FROM enqueue.run_at) * 1000000 ELSE now END;

    SELECT q.id INTO queue_id FROM lameduck.queues q WHERE q.name = enqueue.queue;
    IF NOT FOUND THEN
        INSERT INTO lameduck.queues AS q (name) VALUES (enqueue.queue) ON CONFLICT DO NOTHING;
        SELECT q.id INTO STRICT queue_id FROM lameduck.queues q WHERE q.name = enqueue.queue;
    END IF;

    IF enqueue.idempotency_key IS NOT NULL THEN
        -- As the program does it: the content type's length in eight bytes, the lowest first; then both.
        digest := sha256(
            set_byte('\x0000000000000000'::bytea, 0, length(enqueue.content_type))
            || convert_to(enqueue.content_type, 'UTF8') || enqueue.payload);
        INSERT INTO lameduck.idempotency_keys AS k (queue, key, job, digest, created_at)
        VALUES (queue_id, enqueue.idempotency_key, job, digest, now) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT k.job, k.digest INTO STRICT first FROM lameduck.idempotency_keys k
            WHERE k.queue = queue_id AND k.key = enqueue.idempotency_key;
            IF first.digest <> digest THEN
                RAISE unique_violation USING
                    MESSAGE = format('the idempotency key was used for another job, %s', first.job),
                    HINT = 'The same key stands for the same payload and content type.';
            END IF;
            RETURN first.job;
        END IF;
    END IF;

    PERFORM set_config('lameduck.enqueues', 'on', true);
    INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, timeout, max_attempts, submitted_at, content_type,
                               traceparent, payload)
    VALUES (job, queue_id, 0, enqueue.priority, due, extract(epoch FROM enqueue.timeout) * 1000000,
            enqueue.max_attempts, now, enqueue.content_type,
            -- One that is not valid is ignored and refuses nothing (W3C Trace Context, section 4.3).
            CASE WHEN enqueue.traceparent ~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$'
                 THEN enqueue.traceparent END,
            enqueue.payload);
    PERFORM set_config('lameduck.enqueues', '', true);
    IF enqueue.notify THEN
        PERFORM pg_notify('lameduck', format(E'%s\nr %s', job, enqueue.queue));
    END IF;
    RETURN job;
END $$;

-- The same for JSON, which is kept as it is written: it is the same job as one over HTTP with the same text. It took
-- jsonb before, and kept PostgreSQL's rendering of that. Any type now, so that callers with a jsonb go on working; and
-- under the one name, so that a GRANT needs no list of types.
CREATE FUNCTION lameduck.enqueue_json_as_written(
    queue           text,
    payload         anycompatible,              -- text, json, jsonb, or whatever is written as JSON
    run_at          timestamptz DEFAULT NULL,
    priority        integer     DEFAULT 0,
    timeout         interval    DEFAULT NULL,
    max_attempts    integer     DEFAULT 5,
    idempotency_key text        DEFAULT NULL,
    traceparent     text        DEFAULT NULL,
    notify          boolean     DEFAULT true
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- What is not JSON is refused here, by PostgreSQL's own words.
    PERFORM payload::text::json;
    RETURN lameduck.enqueue(queue, convert_to(payload::text, 'UTF8'), 'application/json', run_at, priority, timeout,
                            max_attempts, idempotency_key, traceparent, notify);
END $$;

DO $$
DECLARE
    old    CONSTANT regprocedure := 'lameduck.enqueue_json(text, jsonb, timestamptz, integer, interval, integer, text, '
                                    'text, boolean)'::regprocedure;
    new    CONSTANT regprocedure := 'lameduck.enqueue_json_as_written(text, anycompatible, timestamptz, integer, '
                                    'interval, integer, text, text, boolean)'::regprocedure;
    other  record;
BEGIN
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', new);
    -- Who may call the one may call the other.
    FOR other IN
        SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee,
               CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS how
        FROM pg_proc p CROSS JOIN aclexplode(p.proacl) AS a
        WHERE p.oid = old AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s%s', new, other.grantee, other.how);
    END LOOP;
    BEGIN
        EXECUTE format('DROP FUNCTION %s', old);
    EXCEPTION WHEN dependent_objects_still_exist THEN
        -- Somebody's view or function is made of it: theirs goes on with the old one.
        EXECUTE format('ALTER FUNCTION %s RENAME TO enqueue_jsonb', old);
    END;
    EXECUTE format('ALTER FUNCTION %s RENAME TO enqueue_json', new);
END $$;
