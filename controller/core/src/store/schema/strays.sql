-- What the host's agent knows of a guest that no server has: what it is to be, and the last sequence of
-- its commands. What it has is held for it until an operator adopts it, or its host no longer has it
-- (PROTOCOL.md, rule 5).
CREATE TABLE stray_guests (
    vmm_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    spec TEXT NOT NULL,                      -- JSON VmmSpec
    told_at BIGINT NOT NULL,
    PRIMARY KEY (vmm_id, host_id)
);
CREATE INDEX strays_host ON strays (host_id);
