//! Hosts' certificates: by which a host proves its key to a controller, in every connection's TLS
//! handshake (RFC 8446, 4.4.2).
//!
//! A certificate is for the key that the host made and never shows; its name is the host's id. Which
//! key is a host's is the database's word, asked at every call, so that nothing has to be revoked.

use berth_rpc_types::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// How long a certificate is good for. A host asks for the next one long before.
pub const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest request that is read: one for a P-256 key has some 400 bytes.
const REQUEST_MAX: usize = 16 << 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum HostCaError {
    /// The request is none, or its signature is not by its own key.
    #[error("the certificate request is none: {0}")]
    Request(rcgen::Error),
    /// It is too long to be one.
    #[error("the certificate request has {0} bytes, and may have {REQUEST_MAX}")]
    TooLong(usize),
    /// Signing failed.
    #[error("the certificate was not signed: {0}")]
    Sign(#[source] rcgen::Error),
}

/// The key that a client showed in its TLS handshake, if its certificate is by [`HostCa`]: the
/// SHA-256 of its SubjectPublicKeyInfo, in hexadecimal. An extension of every request of that
/// connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerKey(pub String);

impl PeerKey {
    /// Of a SubjectPublicKeyInfo in DER form (RFC 5280, 4.1.2.7).
    pub fn of(spki: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(spki)))
    }
}

/// Signs hosts' certificates.
pub struct HostCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A host's request, whose signature is by the key that it is for.
pub struct Request {
    csr: CertificateSigningRequestParams,
}

impl Request {
    /// Parses a request in PEM form (RFC 2986) and checks its signature.
    ///
    /// # Errors
    /// [`HostCaError`]
    pub fn parse(pem: &str) -> Result<Self, HostCaError> {
        if pem.len() > REQUEST_MAX {
            return Err(HostCaError::TooLong(pem.len()));
        }
        let csr = CertificateSigningRequestParams::from_pem(pem).map_err(HostCaError::Request)?;
        Ok(Self { csr })
    }

    /// The key that it is for.
    pub fn key(&self) -> PeerKey {
        PeerKey::of(&self.csr.public_key.subject_public_key_info())
    }
}

impl HostCa {
    /// With this key. All controllers that have it are one authority: its name and its key are all
    /// that a certificate is checked by.
    ///
    /// # Errors
    /// If its own certificate cannot be made.
    pub fn new(key: KeyPair) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "Berth hosts' CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self { issuer })
    }

    /// Its own certificate, in DER form: what vouches for the hosts'.
    pub fn certificate(&self) -> &[u8] {
        self.issuer.der()
    }

    /// A host's certificate in PEM form, made at `now` (Unix milliseconds). Of the request only the
    /// key counts.
    ///
    /// # Errors
    /// [`HostCaError::Sign`]
    pub fn sign(&self, host: HostId, request: &Request, now: i64) -> Result<String, HostCaError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(HostCaError::Sign)?;
        params
            .distinguished_name
            .push(DnType::CommonName, host.to_string());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // Other controllers' clocks may be behind by a day.
        let day = Duration::from_secs(24 * 3600);
        let now = rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_millis(u64::try_from(now).unwrap_or(0));
        params.not_before = now - day;
        params.not_after = now + LIFETIME;
        let signed = params.signed_by(&request.csr.public_key, &self.issuer);
        signed.map(|c| c.pem()).map_err(HostCaError::Sign)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_is_for_the_key_that_signed_it_and_nothing_else_of_it_counts() {
        let ca = HostCa::new(KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["controller.example".into()]).unwrap();
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = Request::parse(&csr).unwrap();
        assert_eq!(request.key(), PeerKey::of(&key.subject_public_key_info()));
        let host = HostId::from_u128(7);
        let signed = ca.sign(host, &request, 1_800_000_000_000).unwrap();
        let der = rustls_pemfile::certs(&mut signed.as_bytes())
            .next()
            .unwrap()
            .unwrap();
        let wanted = b"controller.example";
        assert!(!der.windows(wanted.len()).any(|w| w == wanted));
        let name = host.to_string();
        assert!(der.windows(name.len()).any(|w| w == name.as_bytes()));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let csr = CertificateParams::new(Vec::new())
            .unwrap()
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap();
        // Another's signature: one bit of it is changed.
        let mut der = csr.der().to_vec();
        *der.last_mut().unwrap() ^= 1;
        let forged = CertificateSigningRequestParams::from_der(&der.into());
        assert!(forged.is_err());
        for no_request in [
            "",
            "-----BEGIN CERTIFICATE REQUEST-----",
            &"x".repeat(20_000),
        ] {
            assert!(Request::parse(no_request).is_err());
        }
    }
}
