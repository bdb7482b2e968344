-- Tables of the identity API. Times are Unix milliseconds; flags are 0 or 1; "extra" is JSON.
CREATE TABLE IF NOT EXISTS domains (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS projects (
    id TEXT PRIMARY KEY,
    domain_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    tags TEXT NOT NULL,                      -- JSON list
    created_at BIGINT NOT NULL,
    UNIQUE (domain_id, name)
);

CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    domain_id TEXT NOT NULL,
    name TEXT NOT NULL,
    password_hash TEXT NOT NULL,             -- argon2id, PHC form; empty: may not log in by password
    default_project_id TEXT,
    email TEXT,
    description TEXT,
    enabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (domain_id, name)
);

CREATE TABLE IF NOT EXISTS roles (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Who has which role on what. target_kind: project, domain, system (target_id 'all').
CREATE TABLE IF NOT EXISTS role_assignments (
    user_id TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target_id TEXT NOT NULL,
    role_id TEXT NOT NULL,
    PRIMARY KEY (user_id, target_kind, target_id, role_id)
);
CREATE INDEX IF NOT EXISTS role_assignments_target ON role_assignments (target_kind, target_id);

-- A token is stored as its SHA-256; who reads the database cannot use it.
CREATE TABLE IF NOT EXISTS tokens (
    token_hash TEXT PRIMARY KEY,
    audit_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    target_kind TEXT NOT NULL,               -- project, domain, system, or none
    target_id TEXT NOT NULL,
    methods TEXT NOT NULL,                   -- JSON list
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS tokens_user ON tokens (user_id);
CREATE INDEX IF NOT EXISTS tokens_expiry ON tokens (expires_at);
