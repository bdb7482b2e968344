-- What PROTOCOL.md's table names. Times are Unix milliseconds; flags are 0 or 1;
-- "body" and "params" are JSON. Ids are TEXT.
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS hosts (
    id TEXT PRIMARY KEY,
    service_id BIGINT NOT NULL UNIQUE,       -- small number for microversions before 2.53
    hostname TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    secret_hash TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    availability_zone TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    disabled_reason TEXT,
    forced_down BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,            -- of the last sync
    agent_version TEXT NOT NULL,
    capacity TEXT NOT NULL,                  -- JSON berth_rpc_types::Capacity
    generation BIGINT NOT NULL,              -- of the inventory: rises with each claim and release
    network_revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- One process on one host for an instance.
CREATE TABLE IF NOT EXISTS vmms (
    id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    role TEXT NOT NULL,                      -- VmmRole
    state TEXT NOT NULL,                     -- VmmState as last folded
    sequence BIGINT NOT NULL,                -- last sequence given to a command
    observation BIGINT NOT NULL,             -- last observation folded
    spec TEXT,                               -- JSON VmmSpec as last sent
    created_at BIGINT NOT NULL,
    lost_at BIGINT,                          -- ownership was given away by a fence: the host must remove it
    deleted_at BIGINT                        -- set when the agent answered its tombstone, or undid its build
);
CREATE INDEX IF NOT EXISTS vmms_host ON vmms (host_id);
CREATE INDEX IF NOT EXISTS vmms_instance ON vmms (instance_id);

-- A workflow.
CREATE TABLE IF NOT EXISTS operations (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    version BIGINT NOT NULL,
    instance_id TEXT,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    step TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,                     -- running, done, failed
    params TEXT NOT NULL,                    -- JSON: {given, and what the steps remember}
    traceparent TEXT,
    wake_at BIGINT,                          -- when the driver looks again without being poked
    deadline_at BIGINT,
    progress TEXT,
    last_sign_at BIGINT,                     -- last sign of life
    error TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX IF NOT EXISTS operations_open ON operations (state, wake_at);
CREATE INDEX IF NOT EXISTS operations_instance ON operations (instance_id);

-- Commands to be sent, and sent again until a result is folded in.
CREATE TABLE IF NOT EXISTS outbox (
    message_id TEXT PRIMARY KEY,
    operation_id TEXT NOT NULL,
    step TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    host_id TEXT NOT NULL,
    vmm_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    envelope TEXT NOT NULL,
    sends BIGINT NOT NULL,
    next_send_at BIGINT,                     -- NULL once a final result is folded in, or none is waited for
    result TEXT,                             -- JSON of the final Outcome, once folded in
    created_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (next_send_at);
CREATE UNIQUE INDEX IF NOT EXISTS outbox_step ON outbox (operation_id, step, attempt);

-- What an instance holds of a host's inventory. Released only on the agent's answer or a fence.
CREATE TABLE IF NOT EXISTS claims (
    vmm_id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS claims_host ON claims (host_id);

CREATE TABLE IF NOT EXISTS join_tokens (
    token_hash TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL,
    used_by TEXT
);

-- Guests that agents found and nobody knows (rule 5): left alone, and shown to operators.
CREATE TABLE IF NOT EXISTS strays (
    vmm_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    state TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (vmm_id, host_id)
);
