-- The cloud's own clock: one row, counted on once a beat while a controller runs, whatever the wall
-- clocks say. What is long ago is told by it.
CREATE TABLE beats (
    id BIGINT PRIMARY KEY,                   -- 1
    beat BIGINT NOT NULL
);
INSERT INTO beats (id, beat) VALUES (1, 1);

-- When a host's agent last reported. Narrow: it is written at each report.
CREATE TABLE host_beats (
    host_id TEXT PRIMARY KEY,
    beat BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,                 -- Unix milliseconds, to be shown
    copied BIGINT NOT NULL                   -- hosts.last_seen_at, which a controller of the release before writes
);

-- When an upload last said that it goes on, which it says by changing images.updated_at.
CREATE TABLE upload_beats (
    image_id TEXT PRIMARY KEY,
    beat BIGINT NOT NULL,
    said_at BIGINT NOT NULL                  -- what images.updated_at was then
);

-- Where rows were in their lists that are deleted: a page may begin behind one.
CREATE TABLE deleted_markers (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,                     -- a project; '': everybody saw it
    keys TEXT NOT NULL,                      -- JSON: each field that can be sorted by
    beat BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX deleted_markers_beat ON deleted_markers (beat);

-- Pages of one project's rows.
CREATE INDEX instances_page ON instances (project_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX instances_all ON instances (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX ports_page ON ports (project_id, created_at, id);
CREATE INDEX subnets_page ON subnets (project_id, created_at, id);
CREATE INDEX subnets_cidr ON subnets (cidr);
CREATE INDEX networks_shared ON networks (shared);
CREATE INDEX networks_external ON networks (external);
CREATE INDEX security_group_rules_page ON security_group_rules (project_id, created_at, id);
CREATE INDEX images_visibility ON images (visibility);
