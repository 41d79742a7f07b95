-- What drains add up to beside their number and their durations, by name: figures of a living row as a JSON object, those
-- of pruned rows here.
ALTER TABLE processes ADD COLUMN figures TEXT;

CREATE TABLE drain_figures (
    cause   TEXT NOT NULL,
    outcome TEXT NOT NULL,
    name    TEXT NOT NULL,
    sum     REAL NOT NULL,
    PRIMARY KEY (cause, outcome, name)
) STRICT, WITHOUT ROWID;
