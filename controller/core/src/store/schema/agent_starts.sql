-- The start of a host's agent that was last seen, and the boot of the host that it was in: an agent
-- that does not know it has another journal, and a host with another boot id has been off
-- (PROTOCOL.md, rule 4).
CREATE TABLE agent_starts (
    host_id TEXT PRIMARY KEY,
    start_id TEXT NOT NULL,
    boot_id TEXT NOT NULL
);

-- Hosts that were removed. A host that joins again begins above the epoch that it had; no other is
-- given its service's number.
CREATE TABLE retired_hosts (
    host_id TEXT PRIMARY KEY,
    service_id BIGINT NOT NULL,
    hostname TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    retired_at BIGINT NOT NULL
);
