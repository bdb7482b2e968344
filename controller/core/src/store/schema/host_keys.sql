-- The public key that a host's certificate is for: the SHA-256 of its SubjectPublicKeyInfo, in
-- hexadecimal. From then on the host's secret alone proves nothing.
CREATE TABLE host_keys (
    host_id TEXT PRIMARY KEY,
    key_digest TEXT NOT NULL,
    since BIGINT NOT NULL
);
