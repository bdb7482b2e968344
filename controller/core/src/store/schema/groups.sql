-- Groups of users: what is granted to one is granted to each who is in it.
CREATE TABLE groups (
    id TEXT PRIMARY KEY,
    domain_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (domain_id, name)
);
CREATE TABLE group_members (
    group_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX group_members_user ON group_members (user_id);

-- Assignments beyond role_assignments, which the release before reads: to groups, and those on a domain
-- or project that its projects inherit.
CREATE TABLE wider_assignments (
    actor_kind TEXT NOT NULL,                -- user, group
    actor_id TEXT NOT NULL,
    target_kind TEXT NOT NULL,               -- project, domain, system (target_id 'all')
    target_id TEXT NOT NULL,
    role_id TEXT NOT NULL,
    inherited BIGINT NOT NULL,               -- not on the target, but on the projects in it
    PRIMARY KEY (actor_kind, actor_id, target_kind, target_id, role_id, inherited)
);
CREATE INDEX wider_assignments_target ON wider_assignments (target_kind, target_id);

-- Secrets with which programs log in as a user, for one project, with some of the user's roles there.
CREATE TABLE application_credentials (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    secret_hash TEXT NOT NULL,               -- argon2id, PHC form
    roles TEXT NOT NULL,                     -- JSON list of ids
    unrestricted BIGINT NOT NULL,            -- may make and delete others
    expires_at BIGINT,                       -- Unix microseconds, as it was given
    created_at BIGINT NOT NULL,
    UNIQUE (user_id, name)
);
CREATE INDEX application_credentials_project ON application_credentials (project_id);

-- What else was said of a user, group, project, domain or role: Keystone keeps it, and shows it again.
CREATE TABLE identity_extra (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    extra TEXT NOT NULL,                     -- JSON object
    PRIMARY KEY (kind, id)
);
