-- Instants are microseconds since 1970, ids and claims 16 bytes.

CREATE TABLE queues (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE jobs (
    seq           INTEGER PRIMARY KEY,  -- the order of submission
    id            BLOB    NOT NULL UNIQUE,
    queue         INTEGER NOT NULL,     -- queues.id
    state         INTEGER NOT NULL,     -- 0 pending, 1 running, 2 completed, 3 dead
    run_at        INTEGER NOT NULL,
    attempt       INTEGER NOT NULL DEFAULT 0,
    max_attempts  INTEGER NOT NULL,
    releases      INTEGER NOT NULL DEFAULT 0,
    submitted_at  INTEGER NOT NULL,
    ended_at      INTEGER,
    process       BLOB,                 -- who runs it
    claim         BLOB,                 -- under which claim it runs
    settled_claim BLOB,                 -- the last claim that was settled, to know a repetition
    content_type  TEXT    NOT NULL,
    last_error    TEXT,
    result        BLOB
) STRICT;

-- Small partial indexes: what ended is in none of the first two, so work and counts do not grow with history.
CREATE INDEX jobs_pending ON jobs (queue, run_at) WHERE state = 0;
CREATE INDEX jobs_running ON jobs (queue) WHERE state = 1;
CREATE INDEX jobs_dead ON jobs (queue) WHERE state = 3;

-- Apart from its job, because SQLite writes a changed row as a whole and a job's row changes often.
CREATE TABLE payloads (
    seq  INTEGER PRIMARY KEY,           -- jobs.seq
    body BLOB NOT NULL
) STRICT;

-- A table of its own, so that keys can outlive their jobs.
CREATE TABLE idempotency_keys (
    queue      INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    job        BLOB    NOT NULL,        -- jobs.id
    digest     BLOB    NOT NULL,        -- SHA-256 over what has to be the same again
    created_at INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) STRICT, WITHOUT ROWID;

-- The drain ledger: one row for each process run.
CREATE TABLE processes (
    seq       INTEGER PRIMARY KEY,
    id        BLOB    NOT NULL UNIQUE,
    opened_at INTEGER NOT NULL,
    drain_at  INTEGER,                  -- T0
    drain_id  TEXT,
    cause     TEXT,
    closed_at INTEGER,
    outcome   TEXT,                     -- null while it lives
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
