//! The key that this host proves itself by, and the certificate that the controllers gave for it.
//!
//! The key is made once, in the state directory, and leaves it never. Certificates are not kept: the
//! agent asks for one when it starts, and for the next one long before that expires.

use crate::link::LinkError;
use berth_rpc_types::link::CertificateRequest;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What a TLS client shows: a certificate chain, and the key of its first.
pub(crate) type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A host's key pair (P-256).
pub struct HostKey(KeyPair);

impl HostKey {
    /// A new one, and its PEM form (PKCS #8).
    ///
    /// # Errors
    /// If none can be made.
    pub fn generate() -> Result<(Self, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let pem = key.serialize_pem();
        Ok((Self(key), pem))
    }

    /// From PEM form.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_pem(pem: &str) -> Result<Self, rcgen::Error> {
        KeyPair::from_pem(pem).map(Self)
    }

    /// Asks for a certificate for this key. The controller knows whose it is.
    pub(crate) fn request(&self) -> Result<CertificateRequest, LinkError> {
        let params = CertificateParams::new(Vec::new());
        let csr = params
            .and_then(|params| params.serialize_request(&self.0))
            .and_then(|csr| csr.pem());
        match csr {
            Ok(csr) => Ok(CertificateRequest { csr }),
            Err(error) => Err(LinkError::Configuration(format!(
                "this host's key: {error}"
            ))),
        }
    }

    /// What a TLS client shows: the certificate, and this key.
    pub(crate) fn shown(&self, certificate: &str) -> Result<Shown, LinkError> {
        let chain =
            rustls_pemfile::certs(&mut certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::try_from(self.0.serialize_der());
        match (chain, key) {
            (Ok(chain), Ok(key)) if !chain.is_empty() => Ok((chain, key)),
            _ => Err(LinkError::Configuration(
                "what the controller gave is no certificate for this host's key".into(),
            )),
        }
    }
}
