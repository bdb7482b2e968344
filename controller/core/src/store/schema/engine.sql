-- What an operation is about, if that is no instance.
CREATE TABLE operation_subjects (
    operation_id TEXT PRIMARY KEY,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL
);

-- What operations hold: a subject is held by one at a time.
CREATE TABLE holds (
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    PRIMARY KEY (subject_kind, subject_id)
);
CREATE INDEX holds_operation ON holds (operation_id);

-- What operations wait for. "due_at" is Unix milliseconds.
CREATE TABLE timers (
    operation_id TEXT NOT NULL,
    name TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (operation_id, name)
);

-- Operations that operations begin.
CREATE TABLE children (
    parent_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    given TEXT NOT NULL,                     -- JSON: what its request would say
    at_once BIGINT NOT NULL,                 -- how many of the parent's run at a time
    state TEXT NOT NULL,                     -- waiting, begun, stopping, refused, stopped
    operation_id TEXT,                       -- once begun
    why TEXT,                                -- refused
    PRIMARY KEY (parent_id, position)
);
CREATE INDEX children_operation ON children (operation_id);
