-- Where a port is bound besides its active binding, which stands in its own row.
CREATE TABLE port_bindings (
    port_id TEXT NOT NULL,
    vmm_id TEXT NOT NULL,
    host_id TEXT NOT NULL,
    PRIMARY KEY (port_id, vmm_id)
);
CREATE INDEX port_bindings_vmm ON port_bindings (vmm_id);
CREATE INDEX port_bindings_host ON port_bindings (host_id);
