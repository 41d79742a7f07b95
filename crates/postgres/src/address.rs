//! Where the database is, and how much its certificate has to prove.
//!
//! | `sslmode` in the URL | the connection is | the server is |
//! | --- | --- | --- |
//! | `disable` | plain | believed |
//! | `prefer` (default) | encrypted where the server can | believed |
//! | `require` | encrypted | believed |
//! | `verify-full` | encrypted | checked: its certificate is for this host, by an authority of the system or of `sslrootcert` |
//!
//! The same words as libpq's, with the same meaning.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres::{
    Client, Config, Connection, Error, Socket,
    config::{Host, SslMode, TargetSessionAttrs},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use lameduck_jobs::engine::EngineError;

/// A connection that is being driven.
type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// How to get a connection.
#[derive(Clone)]
pub(super) struct Address {
    pub config: Config,
    pub tls: MakeRustlsConnect,
}

/// How much the server has to prove.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trust {
    Anybody,
    Certified,
}

/// What of a URL is not tokio-postgres' to read.
#[derive(Debug, PartialEq)]
struct Tls {
    mode: SslMode,
    trust: Trust,
    roots: Option<PathBuf>,
}

// === impl Address ===

impl Address {
    /// Of a URL (`postgres://user:password@host:5432/database?sslmode=verify-full`). A connection has to be
    /// there within `patience`.
    pub fn parse(url: &str, patience: Duration) -> Result<Self, EngineError> {
        let (rest, tls) = split(url)?;
        let mut config = Config::from_str(&rest).map_err(|error| unusable(&describe(&error)))?;
        config.ssl_mode(tls.mode);
        if config.get_application_name().is_none() {
            config.application_name("lameduck");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(patience);
        }
        // After a failover the old primary may still answer, as a standby.
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        // A server that vanished without a word is noticed in a few times `patience`, not in hours.
        let patience = patience.max(Duration::from_secs(1));
        config.tcp_user_timeout(patience);
        config.keepalives_idle(patience);
        config.keepalives_interval(patience);
        config.keepalives_retries(2);
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(tls.client()?),
        })
    }

    /// A connection, which somebody has to drive.
    pub async fn connect(&self) -> Result<(Client, Driver), Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// For people, without the password.
    pub fn to_people(&self) -> String {
        let hosts: Vec<_> = self
            .config
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let database = self.config.get_dbname().or(self.config.get_user());
        format!("'{}' on {}", database.unwrap_or_default(), hosts.join(", "))
    }
}

/// Takes out of the URL's parameters what is about TLS.
fn split(url: &str) -> Result<(String, Tls), EngineError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(unusable("it does not begin with postgres://"));
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut tls = Tls {
        mode: SslMode::Prefer,
        trust: Trust::Anybody,
        roots: None,
    };
    let mut others = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "sslmode" => (tls.mode, tls.trust) = trust(value)?,
            "sslrootcert" => {
                let path = percent_decode_str(value).decode_utf8_lossy().into_owned();
                tls.roots = Some(path.into());
            }
            _ => others.push(parameter),
        }
    }
    let rest = match others.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", others.join("&")),
    };
    Ok((rest, tls))
}

fn trust(mode: &str) -> Result<(SslMode, Trust), EngineError> {
    Ok(match mode {
        "disable" => (SslMode::Disable, Trust::Anybody),
        "prefer" => (SslMode::Prefer, Trust::Anybody),
        "require" => (SslMode::Require, Trust::Anybody),
        "verify-full" => (SslMode::Require, Trust::Certified),
        _ => {
            let known = "use disable, prefer, require or verify-full";
            return Err(unusable(&format!("there is no sslmode '{mode}': {known}")));
        }
    })
}

fn describe(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn unusable(why: &str) -> EngineError {
    EngineError::Unusable {
        context: "reading the database's URL".to_owned(),
        message: format!(
            "{why}; it looks like postgres://user:password@host:5432/database?sslmode=verify-full, with \
             characters other than letters and digits percent-encoded in user and password"
        ),
    }
}

// === impl Tls ===

impl Tls {
    fn client(&self) -> Result<ClientConfig, EngineError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| no_tls(&error))?;
        Ok(match self.trust {
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Believing(provider)))
                .with_no_client_auth(),
            Trust::Certified => builder
                .with_root_certificates(self.roots()?)
                .with_no_client_auth(),
        })
    }

    fn roots(&self) -> Result<RootCertStore, EngineError> {
        let mut roots = RootCertStore::empty();
        match &self.roots {
            Some(path) => {
                let bad = |error: &dyn std::fmt::Display| {
                    no_tls(&format!("sslrootcert {}: {error}", path.display()))
                };
                for certificate in
                    CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))?
                {
                    let certificate = certificate.map_err(|error| bad(&error))?;
                    roots.add(certificate).map_err(|error| bad(&error))?;
                }
                if roots.is_empty() {
                    return Err(bad(&"there is no certificate in it"));
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(no_tls(
                        &"this system has no certificates of authorities: install ca-certificates, or name a \
                          file by sslrootcert=/path in the database's URL",
                    ));
                }
            }
        }
        Ok(roots)
    }
}

fn no_tls(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Unusable {
        context: "preparing TLS to the database".to_owned(),
        message: why.to_string(),
    }
}

/// Takes any certificate, as libpq does below `verify-full`; that the server has its key it must show all
/// the same.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

// === impl Believing ===

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_tls_is_taken_out_of_the_url() {
        let url =
            "postgres://u:p@h/d?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fetc%2Fca.pem";

        let (rest, tls) = split(url).unwrap();

        assert_eq!(rest, "postgres://u:p@h/d?connect_timeout=3");
        assert_eq!(
            tls,
            Tls {
                mode: SslMode::Require,
                trust: Trust::Certified,
                roots: Some("/etc/ca.pem".into()),
            }
        );
        assert_eq!(split("postgres://h/d").unwrap().1.mode, SslMode::Prefer);
    }

    #[test]
    fn a_bad_url_is_refused_without_telling_its_password() {
        for url in [
            "mysql://u:secret@h/d",
            "postgres://u:secret@h/d?sslmode=very",
            "postgres://u:secret@h:port/d",
        ] {
            let Err(error) = Address::parse(url, Duration::from_secs(1)) else {
                panic!("{url} was taken");
            };
            let error = error.to_string();
            assert!(error.contains("postgres://user"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_address_is_told_without_its_password() {
        let address = Address::parse("postgres://u:secret@h/d", Duration::from_secs(1)).unwrap();
        assert_eq!(address.to_people(), "'d' on h");
    }
}
