-- The last number that was drawn for a command to a host (PROTOCOL.md, rule 3).
CREATE TABLE host_numbers (
    host_id TEXT PRIMARY KEY,
    last BIGINT NOT NULL
);

-- The last sequence of a subject; a VMM's is in its row.
CREATE TABLE sequences (
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY (subject_kind, subject_id)
);
