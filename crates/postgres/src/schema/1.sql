-- Instants and durations are microseconds, instants since 1970.

CREATE TABLE lameduck.schema_version (
    version        integer NOT NULL,        -- of this schema
    min_compatible integer NOT NULL         -- the oldest program, by the schema that it writes, that can work with it
);

CREATE TABLE lameduck.queues (
    id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name   text    NOT NULL UNIQUE,
    paused boolean NOT NULL DEFAULT false
);

CREATE TABLE lameduck.jobs (
    seq              bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order of submission
    id               uuid     NOT NULL UNIQUE,
    queue            integer  NOT NULL,     -- queues.id
    state            smallint NOT NULL,     -- 0 waiting, 1 running, 2 completed, 3 dead, 4 cancelled, 5 deferred
    priority         smallint NOT NULL,
    run_at           bigint   NOT NULL,     -- of a deferred job: until when its outcome is waited for
    timeout          bigint,
    attempt          integer  NOT NULL DEFAULT 0,
    max_attempts     bigint   NOT NULL,
    releases         integer  NOT NULL DEFAULT 0,
    crashes          integer  NOT NULL DEFAULT 0,      -- in a row
    alone            boolean  NOT NULL DEFAULT false,  -- nothing else runs beside it
    runs             integer  NOT NULL DEFAULT 0,      -- that have ended; the next one's number in the table of runs
    cancel_requested boolean  NOT NULL DEFAULT false,
    submitted_at     bigint   NOT NULL,
    started_at       bigint,                -- the run under way
    ended_at         bigint,
    process          uuid,                  -- who runs it, or deferred it
    claim            uuid,                  -- under which claim
    settled_claim    uuid,                  -- the last claim that was settled, to know a repetition
    content_type     text     NOT NULL,
    traceparent      text,
    last_error       text,
    payload          bytea    NOT NULL,
    result           bytea
) WITH (
    -- Every job leaves three dead rows behind; by default they would be a fifth of the table before anybody looks.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

-- Small partial indexes: what ended is in the last one only, so work does not grow with history.
CREATE INDEX jobs_waiting  ON lameduck.jobs (queue, priority, run_at, seq) WHERE state = 0;
CREATE INDEX jobs_running  ON lameduck.jobs (process, queue) WHERE state = 1;
CREATE INDEX jobs_deferred ON lameduck.jobs (queue, run_at, seq) WHERE state = 5;
CREATE INDEX jobs_ended    ON lameduck.jobs (queue, state, ended_at, seq) WHERE ended_at IS NOT NULL;

-- How many wait, and how many bytes there are, must be known at every submission. Counting takes as long as they are
-- many; one row to count in would make everybody wait for everybody's commit. So each queue has a few.
CREATE TABLE lameduck.queue_counts (
    queue   integer  NOT NULL,
    shard   smallint NOT NULL,
    waiting bigint   NOT NULL,              -- jobs in state 0
    bytes   bigint   NOT NULL,              -- of payloads and results
    PRIMARY KEY (queue, shard)
) WITH (fillfactor = 50);

CREATE FUNCTION lameduck.count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        SELECT queue, pg_catalog.pg_backend_pid() & 15, count(*) FILTER (WHERE state = 0), sum(octet_length(payload))
        FROM fresh GROUP BY queue ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        SELECT queue, pg_catalog.pg_backend_pid() & 15, -count(*) FILTER (WHERE state = 0),
               -sum(octet_length(payload) + coalesce(octet_length(result), 0))
        FROM gone GROUP BY queue ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE
        SET waiting = c.waiting + excluded.waiting, bytes = c.bytes + excluded.bytes;
    ELSE
        INSERT INTO lameduck.queue_counts AS c (queue, shard, waiting, bytes)
        SELECT queue, pg_catalog.pg_backend_pid() & 15, sum(waiting), sum(bytes) FROM (
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

CREATE TRIGGER jobs_came AFTER INSERT ON lameduck.jobs REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION lameduck.count_jobs();
CREATE TRIGGER jobs_went AFTER DELETE ON lameduck.jobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION lameduck.count_jobs();
CREATE TRIGGER jobs_changed AFTER UPDATE ON lameduck.jobs REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION lameduck.count_jobs();

-- The history of each job: its last runs.
CREATE TABLE lameduck.runs (
    job        bigint   NOT NULL,           -- jobs.seq
    number     integer  NOT NULL,           -- 0, 1, …
    attempt    integer  NOT NULL,
    process    uuid     NOT NULL,
    started_at bigint   NOT NULL,
    ended_at   bigint   NOT NULL,
    how        smallint NOT NULL,           -- 0 completed, 1 failed, 2 released, 3 postponed, 4 cancelled, 5 lost
    error      text,
    PRIMARY KEY (job, number)
);

-- A table of its own, so that keys can outlive their jobs.
CREATE TABLE lameduck.idempotency_keys (
    queue      integer NOT NULL,
    key        text    NOT NULL,
    job        uuid    NOT NULL,            -- jobs.id
    digest     bytea   NOT NULL,            -- SHA-256 over what has to be the same again
    created_at bigint  NOT NULL,
    PRIMARY KEY (queue, key)
);

CREATE INDEX idempotency_keys_by_age ON lameduck.idempotency_keys (created_at);

-- One row for each process run: its lease, and its line of the drain ledger.
CREATE TABLE lameduck.processes (
    seq       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id        uuid   NOT NULL UNIQUE,
    node      text,                         -- the machine,
    boot_id   text,                         -- and which of its boots: what a power cut ends was not crashed by its jobs
    opened_at bigint NOT NULL,
    lease     bigint NOT NULL,              -- how long the beat may stand still
    beat      bigint NOT NULL DEFAULT 0,    -- goes up while it lives
    left_at   bigint,                       -- when the lease ended: given up, or reaped
    drain_at  bigint,                       -- T0
    drain_id  text,
    cause     text,
    closed_at bigint,
    outcome   text,                         -- null while it lives
    seconds   double precision,
    report    text
) WITH (fillfactor = 50);

CREATE INDEX processes_living ON lameduck.processes (seq) WHERE left_at IS NULL;

-- What became of processes whose rows were pruned.
CREATE TABLE lameduck.drain_totals (
    cause   text             NOT NULL,
    outcome text             NOT NULL,
    count   bigint           NOT NULL,
    seconds double precision NOT NULL,
    PRIMARY KEY (cause, outcome)
);
