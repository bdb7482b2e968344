-- The zones of hosts, one after the other.
CREATE INDEX hosts_zone ON hosts (availability_zone);
-- How many times something was added to what a project has: what was counted before the last is counted again.
CREATE TABLE quota_additions (
    project_id TEXT PRIMARY KEY NOT NULL,
    number BIGINT NOT NULL
);
