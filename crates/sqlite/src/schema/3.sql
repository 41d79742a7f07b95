-- The queue's time, which goes on as it did though somebody sets the machine's clock (src/jobs/engine/sqlite/time.rs).
CREATE TABLE clock (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    at      INTEGER NOT NULL,               -- an instant in the queue's time,
    boot_id TEXT,                           -- the machine's boot in which it was,
    uptime  INTEGER,                        -- and how long after its beginning
    shift   INTEGER NOT NULL                -- the machine's clock is so much ahead of the queue's time
) STRICT;

-- Its run_at is an instant that its submitter named, and follows the machine's clock.
ALTER TABLE jobs ADD COLUMN by_clock INTEGER NOT NULL DEFAULT 0;
