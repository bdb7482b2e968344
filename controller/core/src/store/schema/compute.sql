-- Servers and what belongs to them.
CREATE TABLE IF NOT EXISTS instances (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    vm_state TEXT NOT NULL,
    task_state TEXT,
    power_state BIGINT NOT NULL,
    host_id TEXT,
    active_vmm_id TEXT,
    availability_zone TEXT,
    flavor TEXT NOT NULL,                    -- JSON as it was when built
    vcpus BIGINT NOT NULL,                   -- of the flavor: quotas are sums over rows
    memory_mib BIGINT NOT NULL,              -- of the flavor
    image_id TEXT,
    key_name TEXT,
    locked BIGINT NOT NULL,
    fault TEXT,                              -- JSON {code, message, details, created}
    body TEXT NOT NULL,                      -- JSON: metadata, user_data, tags, description, hints, requested az
    generation BIGINT NOT NULL,
    operation_id TEXT,                       -- the one open operation, if any
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    launched_at BIGINT,
    deleted_at BIGINT
);
CREATE INDEX IF NOT EXISTS instances_project ON instances (project_id, deleted_at);
CREATE INDEX IF NOT EXISTS instances_host ON instances (host_id);

-- Every disk; root disks too.
CREATE TABLE IF NOT EXISTS disks (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    host_id TEXT,
    position BIGINT NOT NULL,
    size_gib BIGINT NOT NULL,
    image_id TEXT,
    format TEXT NOT NULL,
    writer_generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS disks_instance ON disks (instance_id);

-- What os-instance-actions shows.
CREATE TABLE IF NOT EXISTS instance_actions (
    request_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    operation_id TEXT,
    action TEXT NOT NULL,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    message TEXT,
    events TEXT NOT NULL,                    -- JSON list
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (instance_id, request_id)
);

CREATE TABLE IF NOT EXISTS flavors (
    id TEXT PRIMARY KEY,                     -- as the administrator chose it; not always a UUID
    name TEXT NOT NULL UNIQUE,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib BIGINT NOT NULL,
    description TEXT,
    is_public BIGINT NOT NULL,
    extra_specs TEXT NOT NULL,               -- JSON
    created_at BIGINT NOT NULL
);

-- Who may use a flavor that is not public.
CREATE TABLE IF NOT EXISTS flavor_access (
    flavor_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    PRIMARY KEY (flavor_id, project_id)
);

CREATE TABLE IF NOT EXISTS keypairs (
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    serial BIGINT NOT NULL,                  -- Nova's integer id
    key_type TEXT NOT NULL,
    public_key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, name)
);

-- Limits that differ from the defaults; -1 is unlimited.
CREATE TABLE IF NOT EXISTS quotas (
    project_id TEXT NOT NULL,
    resource TEXT NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (project_id, resource)
);

CREATE TABLE IF NOT EXISTS server_groups (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    policy TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS server_group_members (
    group_id TEXT NOT NULL,
    instance_id TEXT PRIMARY KEY
);
CREATE INDEX IF NOT EXISTS server_group_members_group ON server_group_members (group_id);
