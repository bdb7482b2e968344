-- Tables of the network API. Times are Unix milliseconds; flags are 0 or 1.
CREATE TABLE IF NOT EXISTS networks (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    admin_state_up BIGINT NOT NULL,
    shared BIGINT NOT NULL,
    external BIGINT NOT NULL,
    network_type TEXT NOT NULL,              -- flat: a physical network; local: a bridge on each host
    physical_network TEXT UNIQUE,            -- one flat network each
    mtu BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS networks_project ON networks (project_id);

CREATE TABLE IF NOT EXISTS subnets (
    id TEXT PRIMARY KEY,
    network_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    cidr TEXT NOT NULL,
    gateway TEXT,
    dhcp BIGINT NOT NULL,
    dns TEXT NOT NULL,                       -- JSON list of addresses
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS subnets_network ON subnets (network_id);

-- From where addresses are handed out. A position is the address' distance from the subnet's first,
-- less 2^63: unsigned 64 bits in a signed column, in order.
CREATE TABLE IF NOT EXISTS subnet_pools (
    subnet_id TEXT NOT NULL,
    first_position BIGINT NOT NULL,
    last_position BIGINT NOT NULL,
    PRIMARY KEY (subnet_id, first_position)
);

-- Each address is held once: the primary key sees to it.
CREATE TABLE IF NOT EXISTS address_allocations (
    subnet_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    holder TEXT NOT NULL,                    -- a port's id, or 'dhcp'
    PRIMARY KEY (subnet_id, position)
);
CREATE INDEX IF NOT EXISTS address_allocations_holder ON address_allocations (holder);

CREATE TABLE IF NOT EXISTS ports (
    id TEXT PRIMARY KEY,
    network_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    admin_state_up BIGINT NOT NULL,
    mac TEXT NOT NULL,
    device_id TEXT NOT NULL,
    device_owner TEXT NOT NULL,
    status TEXT NOT NULL,
    made_by_compute BIGINT NOT NULL,         -- goes with its server
    instance_id TEXT,                        -- the server that holds it
    device_index BIGINT NOT NULL,            -- its place among that server's
    vmm_id TEXT,
    host_id TEXT,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (network_id, mac)
);
CREATE INDEX IF NOT EXISTS ports_instance ON ports (instance_id);
CREATE INDEX IF NOT EXISTS ports_host ON ports (host_id);
CREATE INDEX IF NOT EXISTS ports_project ON ports (project_id);

CREATE TABLE IF NOT EXISTS security_groups (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    is_default BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS security_groups_project ON security_groups (project_id);
CREATE UNIQUE INDEX IF NOT EXISTS security_groups_default ON security_groups (project_id) WHERE is_default = 1;

CREATE TABLE IF NOT EXISTS security_group_rules (
    id TEXT PRIMARY KEY,
    group_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    description TEXT NOT NULL,
    direction TEXT NOT NULL,
    ethertype TEXT NOT NULL,
    protocol TEXT,
    port_min BIGINT,
    port_max BIGINT,
    remote_group_id TEXT,
    remote_ip_prefix TEXT,
    fingerprint TEXT NOT NULL,               -- what it says, for the unique index: NULLs never collide
    created_at BIGINT NOT NULL,
    UNIQUE (group_id, fingerprint)
);

CREATE TABLE IF NOT EXISTS port_security_groups (
    port_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    PRIMARY KEY (port_id, group_id)
);
CREATE INDEX IF NOT EXISTS port_security_groups_group ON port_security_groups (group_id);

CREATE TABLE IF NOT EXISTS network_quotas (
    project_id TEXT NOT NULL,
    resource TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (project_id, resource)
);
