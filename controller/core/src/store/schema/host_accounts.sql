-- Hosts that have an account of their own at the broker: what claims to be theirs and does not
-- carry its sender's name is not believed any more.
CREATE TABLE host_accounts (
    host_id TEXT PRIMARY KEY,
    since BIGINT NOT NULL
);
