-- Jobs from another application, inside a transaction of its own: they are there when it commits, and never were when it
-- does not. docs/postgresql.md tells how to use it.

-- An application's transaction may be long, and holds what it has counted in. So it counts in a row of its own, and
-- housekeeping adds that to the others'.
CREATE OR REPLACE FUNCTION lameduck.count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    own CONSTANT smallint := CASE
        WHEN pg_catalog.current_setting('lameduck.enqueues', true) = 'on'
        THEN 16 + pg_catalog.txid_current() % 32000
        ELSE pg_catalog.pg_backend_pid() & 15
    END;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        SELECT queue, own, count(*) FILTER (WHERE state = 0), sum(octet_length(payload))
        FROM fresh GROUP BY queue ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        SELECT queue, own, -count(*) FILTER (WHERE state = 0),
               -sum(octet_length(payload) + coalesce(octet_length(result), 0))
        FROM gone GROUP BY queue ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
    ELSE
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        SELECT queue, own, sum(waiting), sum(bytes) FROM (
            SELECT queue, (state = 0)::int AS waiting, coalesce(octet_length(result), 0) AS bytes FROM after
            UNION ALL
            SELECT queue, -(state = 0)::int, -coalesce(octet_length(result), 0) FROM before
        ) AS delta
        GROUP BY queue HAVING sum(waiting) <> 0 OR sum(bytes) <> 0 ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;

-- With the rights of the schema's owner, so that an application needs none but to call it.
CREATE FUNCTION lameduck.enqueue(
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
    job       CONSTANT uuid   := gen_random_uuid();
    now       CONSTANT bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    due       CONSTANT bigint := greatest(extract(epoch FROM enqueue.run_at) * 1000000, now);
    digest    bytea;
    queue_id  integer;
    first     record;
BEGIN
    IF enqueue.queue IS NULL OR enqueue.queue !~ '^[a-z0-9][a-z0-9_-]{0,62}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%L is not a queue name', enqueue.queue),
            HINT = 'Use 1 to 63 characters of a-z, 0-9, "-" and "_", beginning with a letter or a digit.';
    ELSIF enqueue.payload IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'payload is null';
    ELSIF coalesce(enqueue.content_type, '') !~ '^[\x20-\x7e]{1,255}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'content_type has to be 1 to 255 characters of visible ASCII';
    ELSIF coalesce(enqueue.priority NOT BETWEEN -9 AND 9, true) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'priority goes from -9 to 9';
    ELSIF coalesce(enqueue.max_attempts < 1, true) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'max_attempts has to be 1 or more';
    ELSIF enqueue.timeout <= interval '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'timeout has to be longer than nothing';
    ELSIF length(enqueue.idempotency_key) NOT BETWEEN 1 AND 255 OR enqueue.idempotency_key ~ '[[:cntrl:]]' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'idempotency_key has 1 to 255 characters and no control characters';
    ELSIF enqueue.traceparent !~ '^[\x21-\x7e]{1,255}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'traceparent has to be visible ASCII';
    END IF;

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
            enqueue.max_attempts, now, enqueue.content_type, enqueue.traceparent, enqueue.payload);
    PERFORM set_config('lameduck.enqueues', '', true);
    IF enqueue.notify THEN
        PERFORM pg_notify('lameduck', format(E'%s\nr %s', job, enqueue.queue));
    END IF;
    RETURN job;
END $$;

-- The same for JSON.
CREATE FUNCTION lameduck.enqueue_json(
    queue           text,
    payload         jsonb,
    run_at          timestamptz DEFAULT NULL,
    priority        integer     DEFAULT 0,
    timeout         interval    DEFAULT NULL,
    max_attempts    integer     DEFAULT 5,
    idempotency_key text        DEFAULT NULL,
    traceparent     text        DEFAULT NULL,
    notify          boolean     DEFAULT true
) RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT lameduck.enqueue(queue, convert_to(payload::text, 'UTF8'), 'application/json', run_at, priority, timeout,
                            max_attempts, idempotency_key, traceparent, notify)
$$;

-- Nobody's until somebody grants it.
REVOKE ALL ON FUNCTION lameduck.enqueue FROM PUBLIC;
REVOKE ALL ON FUNCTION lameduck.enqueue_json FROM PUBLIC;

-- What drains add up to beside their number and their durations, by name: figures of a living row here,
ALTER TABLE lameduck.processes ADD COLUMN figures jsonb;

-- and of pruned rows here.
CREATE TABLE lameduck.drain_figures (
    cause   text             NOT NULL,
    outcome text             NOT NULL,
    name    text             NOT NULL,
    sum     double precision NOT NULL,
    PRIMARY KEY (cause, outcome, name)
);
