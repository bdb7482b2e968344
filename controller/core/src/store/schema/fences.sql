-- An administrator's fences (PROTOCOL.md, rules 4 and 8): who said of which host that it is off.
CREATE TABLE fences (
    host_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,                   -- the host's, as it rose with this fence
    user_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    lifted_user_id TEXT,                     -- who said that it is up again
    lifted_request_id TEXT,
    lifted_at BIGINT,
    PRIMARY KEY (host_id, epoch)
);

-- A VMM that a fence gave away, told to its host until that reports it removed.
ALTER TABLE vmms ADD COLUMN lost_epoch BIGINT;
ALTER TABLE vmms ADD COLUMN removed_at BIGINT;
