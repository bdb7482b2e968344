-- Tags of networks, subnets, ports and security groups.
CREATE TABLE network_tags (
    kind TEXT NOT NULL,                      -- as in paths: networks, subnets, ports, security-groups
    resource_id TEXT NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (kind, resource_id, tag)
);
