-- Instants are microseconds since 1970, ids and claims 16 bytes.

CREATE TABLE queues (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE,
    paused  INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0      -- jobs in state 0; the triggers below keep it
) STRICT;

CREATE TABLE jobs (
    seq              INTEGER PRIMARY KEY,   -- the order of submission
    id               BLOB    NOT NULL UNIQUE,
    queue            INTEGER NOT NULL,      -- queues.id
    state            INTEGER NOT NULL,      -- 0 waiting, 1 running, 2 completed, 3 dead, 4 cancelled, 5 deferred
    priority         INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,      -- of a deferred job: until when its outcome is waited for
    timeout          INTEGER,               -- microseconds
    attempt          INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    releases         INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,  -- in a row
    alone            INTEGER NOT NULL DEFAULT 0,  -- nothing else runs beside it
    runs             INTEGER NOT NULL DEFAULT 0,  -- that have ended; the next one's number in the table of runs
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    submitted_at     INTEGER NOT NULL,
    started_at       INTEGER,               -- the run under way
    ended_at         INTEGER,
    process          BLOB,                  -- who runs it, or deferred it
    claim            BLOB,                  -- under which claim
    settled_claim    BLOB,                  -- the last claim that was settled, to know a repetition
    content_type     TEXT    NOT NULL,
    traceparent      TEXT,
    last_error       TEXT,
    result           BLOB
) STRICT;

-- Small partial indexes: what ended is in the last one only, so work does not grow with history.
CREATE INDEX jobs_waiting  ON jobs (queue, priority, run_at) WHERE state = 0;
CREATE INDEX jobs_running  ON jobs (queue) WHERE state = 1;
CREATE INDEX jobs_deferred ON jobs (queue, run_at) WHERE state = 5;
CREATE INDEX jobs_ended    ON jobs (queue, state, ended_at) WHERE ended_at IS NOT NULL;

-- How many wait must be known at every submission, and counting them takes as long as they are many.
CREATE TRIGGER job_waits AFTER INSERT ON jobs WHEN NEW.state = 0 BEGIN
    UPDATE queues SET waiting = waiting + 1 WHERE id = NEW.queue;
END;
CREATE TRIGGER job_waits_again AFTER UPDATE OF state ON jobs WHEN NEW.state = 0 AND OLD.state <> 0 BEGIN
    UPDATE queues SET waiting = waiting + 1 WHERE id = NEW.queue;
END;
CREATE TRIGGER job_waits_no_more AFTER UPDATE OF state ON jobs WHEN NEW.state <> 0 AND OLD.state = 0 BEGIN
    UPDATE queues SET waiting = waiting - 1 WHERE id = NEW.queue;
END;

-- Apart from its job, because SQLite writes a changed row as a whole and a job's row changes often.
CREATE TABLE payloads (
    seq  INTEGER PRIMARY KEY,               -- jobs.seq
    body BLOB NOT NULL
) STRICT;

-- The history of each job: its last runs.
CREATE TABLE runs (
    job        INTEGER NOT NULL,            -- jobs.seq
    number     INTEGER NOT NULL,            -- 0, 1, …
    attempt    INTEGER NOT NULL,
    process    BLOB    NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    end        INTEGER NOT NULL,            -- 0 completed, 1 failed, 2 released, 3 postponed, 4 cancelled, 5 lost
    error      TEXT,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

-- A table of its own, so that keys can outlive their jobs.
CREATE TABLE idempotency_keys (
    queue      INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    job        BLOB    NOT NULL,            -- jobs.id
    digest     BLOB    NOT NULL,            -- SHA-256 over what has to be the same again
    created_at INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- The drain ledger: one row for each process run.
CREATE TABLE processes (
    seq       INTEGER PRIMARY KEY,
    id        BLOB    NOT NULL UNIQUE,
    boot_id   TEXT,                         -- of the machine: what a power cut ends was not crashed by its jobs
    opened_at INTEGER NOT NULL,
    drain_at  INTEGER,                      -- T0
    drain_id  TEXT,
    cause     TEXT,
    closed_at INTEGER,
    outcome   TEXT,                         -- null while it lives
    seconds   REAL,
    report    TEXT
) STRICT;

-- What became of processes whose rows were pruned.
CREATE TABLE drain_totals (
    cause   TEXT    NOT NULL,
    outcome TEXT    NOT NULL,
    count   INTEGER NOT NULL,
    seconds REAL    NOT NULL,
    PRIMARY KEY (cause, outcome)
) STRICT, WITHOUT ROWID;
