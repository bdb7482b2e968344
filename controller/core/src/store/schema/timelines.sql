-- A stretch of this database's life, from the start of a controller to that of the next one
-- (PROTOCOL.md, rule 5). A database that was restored begins one that no agent has heard of.
CREATE TABLE timelines (
    number BIGINT PRIMARY KEY,               -- from 1
    id TEXT NOT NULL UNIQUE,                 -- random, so that a restored database draws another one
    lineage TEXT NOT NULL,
    counter BIGINT NOT NULL,                 -- the lineage's, when it began
    began_at BIGINT NOT NULL
);

-- What was known of a host when a timeline began: what its agent knows beyond that, from an earlier
-- timeline, it has from a database that this one does not remember.
CREATE TABLE host_timelines (
    host_id TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    last BIGINT NOT NULL,                    -- the last number drawn
    watermark BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (host_id, timeline)
);

-- The timeline in which a host's numbers are drawn: one row, so that no number is between two of them.
ALTER TABLE host_numbers ADD COLUMN timeline BIGINT;

-- The timeline that a host's agent last obeyed.
ALTER TABLE agent_starts ADD COLUMN obeys BIGINT;

-- Agents that refuse this database, and what they have.
CREATE TABLE refusals (
    host_id TEXT PRIMARY KEY,
    why TEXT NOT NULL,
    refused TEXT,                            -- the timeline that it refused first
    lineage TEXT,                            -- what it obeys
    counter BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    last BIGINT NOT NULL,
    watermark BIGINT NOT NULL,
    records TEXT,                            -- JSON [Recorded]; NULL until it has said
    accepted BIGINT,                         -- the timeline that began when an operator accepted
    told_at BIGINT NOT NULL
);

-- Lineages in whose place an operator has put another one.
CREATE TABLE lineages (
    lineage TEXT NOT NULL,
    follows TEXT NOT NULL,
    accepted_at BIGINT NOT NULL,
    PRIMARY KEY (lineage, follows)
);
