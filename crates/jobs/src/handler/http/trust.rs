//! The certificate authorities that are trusted to identify the target.
//!
//! These are the system's, if it has any, so that an operator decides by the image; an image built from scratch
//! has none, and Mozilla's, which are compiled in, take their place. The operator's own are added to these.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::InvalidTarget;

/// Reads the certificates in a PEM file, and checks that each of them can be a root.
pub(super) fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidTarget> {
    let unusable = |error: &dyn std::fmt::Display| InvalidTarget::Certificate(error.to_string());
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(&error))?;
    if authorities.is_empty() {
        return Err(unusable(&"there is none in it"));
    }
    let mut store = RootCertStore::empty();
    for authority in &authorities {
        let added = store.add(authority.clone());
        added.map_err(|error| unusable(&error))?;
    }
    Ok(authorities)
}

/// Returns the TLS settings of a client, with HTTP/2 or HTTP/1.1 by ALPN.
pub(super) fn tls(authorities: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let mut roots = or_mozillas(of_the_system());
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    // The provider is named: without a process-wide one, rustls panics if two are compiled in.
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn of_the_system() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(
            %error,
            "some of the system's certificate authorities can't be read; is SSL_CERT_FILE or SSL_CERT_DIR right?"
        );
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

fn or_mozillas(mut roots: RootCertStore) -> RootCertStore {
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mozillas_authorities_are_trusted_only_where_the_system_has_none() {
        let nobody = RootCertStore::empty();
        let mozillas = webpki_roots::TLS_SERVER_ROOTS;
        assert_eq!(or_mozillas(nobody).len(), mozillas.len());

        let one = RootCertStore::from_iter(mozillas.iter().take(1).cloned());
        assert_eq!(or_mozillas(one).len(), 1);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n";
        for pem in ["", "hello", broken, cut] {
            let error = authorities(pem.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("as PEM"), "{error}");
        }
    }
}
