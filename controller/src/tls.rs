//! The controller's certificate: the operator's, or one of its own making.
//!
//! Where none is configured, a CA is made once in the state directory, and a certificate by it
//! at every start (so that it names what the configuration names now). `ca.pem` is what agents
//! and clients are given to trust. Keys are readable by their owner alone.
//!
//! Hosts' certificates are by an authority of their own ([`hosts_authority`]). Clients are asked for
//! one in the handshake, and need not have any: users have tokens.

use crate::core::HostCa;
use crate::core::host_ca::PeerKey;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no certificate, or no key.
    #[error("{0} holds no {1} in PEM form")]
    Empty(PathBuf, &'static str),
    /// The certificate could not be made.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not fit.
    #[error("certificate and key: {0}")]
    Rustls(#[from] rustls::Error),
    /// Clients' certificates cannot be checked.
    #[error("hosts' certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// TLS with the operator's certificate chain and key; clients may show a certificate by `hosts`.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn from_files(
    cert: &Path,
    key: &Path,
    hosts: Option<&HostCa>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let certs = rustls_pemfile::certs(&mut open(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| file(cert, source))?;
    if certs.is_empty() {
        return Err(TlsError::Empty(cert.to_owned(), "certificate"));
    }
    let key_der = rustls_pemfile::private_key(&mut open(key)?)
        .map_err(|source| file(key, source))?
        .ok_or_else(|| TlsError::Empty(key.to_owned(), "private key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = match hosts {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(hosts) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(hosts.certificate().to_vec().into())?;
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()?
        }
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(certs, key_der)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS with a certificate of our own making for `names` (hostnames and addresses), in `dir`:
/// `ca.pem`, `ca.key`, `controller.pem`, `controller.key`.
///
/// # Errors
/// [`TlsError`]
pub fn self_made(
    dir: &Path,
    names: &[String],
    hosts: Option<&HostCa>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let issuer = authority(dir)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    let name = names.first().map_or("berth-controller", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    let (cert_path, key_path) = (dir.join("controller.pem"), dir.join("controller.key"));
    // The key stays: a controller beside this one that reads both files while this one starts
    // finds a pair.
    let (key, known) = known_or_new(&key_path)?;
    if !known {
        write(&key_path, &key.serialize_pem())?;
    }
    let cert = params.signed_by(&key, &issuer)?;
    write(&cert_path, &format!("{}{}", cert.pem(), issuer.pem()))?;
    from_files(&cert_path, &key_path, hosts)
}

/// The authority of hosts' certificates: by the operator's key, which all controllers of a cloud
/// must have, or by one that is made once in `dir` as `hosts-ca.key`.
///
/// # Errors
/// [`TlsError`]
pub fn hosts_authority(dir: &Path, key: Option<&Path>) -> Result<HostCa, TlsError> {
    let key = match key {
        Some(path) => {
            let pem = std::fs::read_to_string(path).map_err(|source| file(path, source))?;
            KeyPair::from_pem(&pem)?
        }
        None => {
            let path = dir.join("hosts-ca.key");
            let (key, known) = known_or_new(&path)?;
            if !known {
                write(&path, &key.serialize_pem())?;
            }
            key
        }
    };
    Ok(HostCa::new(key)?)
}

/// The key that a client showed in its handshake.
pub fn peer_key(connection: &rustls::ServerConnection) -> Option<PeerKey> {
    let certificate = connection.peer_certificates()?.first()?;
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(PeerKey::of(parsed.subject_public_key_info().as_ref()))
}

/// The CA; its key is kept, so that what was told to trust it goes on doing so.
fn authority(dir: &Path) -> Result<CertifiedIssuer<'static, KeyPair>, TlsError> {
    std::fs::create_dir_all(dir).map_err(|source| file(dir, source))?;
    let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
    let (key, known) = known_or_new(&key_path)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Berth CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, key)?;
    if !known {
        // The key last: killed before it, the next start makes both anew.
        write(&cert_path, &issuer.pem())?;
        write(&key_path, &issuer.key().serialize_pem())?;
    }
    Ok(issuer)
}

/// The key in a file, and whether it was there.
fn known_or_new(path: &Path) -> Result<(KeyPair, bool), TlsError> {
    match std::fs::read_to_string(path) {
        Ok(pem) => Ok((KeyPair::from_pem(&pem)?, true)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok((KeyPair::generate()?, false))
        }
        Err(source) => Err(file(path, source)),
    }
}

fn open(path: &Path) -> Result<BufReader<File>, TlsError> {
    File::open(path)
        .map(BufReader::new)
        .map_err(|source| file(path, source))
}

/// All of it or none of it: whoever reads, and whenever we are killed.
fn write(path: &Path, text: &str) -> Result<(), TlsError> {
    let new = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|source| file(path, source))
}

fn file(path: &Path, source: std::io::Error) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_ca_is_made_once_and_the_certificate_at_every_start() {
        let dir = std::env::temp_dir().join(format!("berth-tls-{}", uuid::Uuid::new_v4()));
        self_made(&dir, &["localhost".into(), "127.0.0.1".into()], None).unwrap();
        let ca = std::fs::read(dir.join("ca.pem")).unwrap();
        let key = std::fs::read(dir.join("controller.key")).unwrap();
        self_made(&dir, &["other".into()], None).unwrap();
        assert_eq!(std::fs::read(dir.join("controller.key")).unwrap(), key);
        assert_eq!(std::fs::read(dir.join("ca.pem")).unwrap(), ca);
        std::fs::write(dir.join("controller.pem"), "nothing").unwrap();
        let error = from_files(
            &dir.join("controller.pem"),
            &dir.join("controller.key"),
            None,
        );
        assert!(matches!(error, Err(TlsError::Empty(_, "certificate"))));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
