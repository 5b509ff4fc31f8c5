//! TLS towards a relay: always verified, against the system's authorities and one more if the tenant names it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;
use tokio_rustls::TlsConnector;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of the authority cannot be read.
    #[error("cannot read certificates from {path}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The certificates or the system's store cannot be used.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
    /// The client of the token endpoint cannot be made.
    #[error("cannot set up HTTPS")]
    Client(#[from] reqwest::Error),
}

/// A connector that verifies what it connects to.
pub fn connector(authority: Option<&Path>) -> Result<TlsConnector, TlsError> {
    Ok(TlsConnector::from(Arc::new(client_config(authority)?)))
}

/// The client's side of TLS: it verifies what it connects to.
pub fn client_config(authority: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut extra: Vec<CertificateDer<'static>> = Vec::new();
    if let Some(path) = authority {
        let fault = |source| TlsError::Authority { path: path.to_owned(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(fault)? {
            extra.push(certificate.map_err(fault)?);
        }
    }
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous() // rustls' word for bringing a verifier; this one is the platform's own.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}
